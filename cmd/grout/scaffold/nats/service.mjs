// A NATS service that grout finds by its name. Start as many as you need, on any machine:
// each call goes to one of them.
import { connect } from 'nats';
import { execute } from './logic.mjs';

const nc = await connect({
  servers: process.env.NATS_URL ?? 'nats://127.0.0.1:4222',
  user: 'plugin',
  pass: process.env.NATS_PASSWORD, // MOZAIKS_NATS_PLUGIN_PASSWORD of grout
});
const service = await nc.services.add({ name: '__NAME__', version: '0.1.0', description: 'Greets by name' });

service.addEndpoint('execute', {
  subject: '__NAME__.execute', // of its own: who shares a subject shares the calls
  handler: async (err, message) => {
    if (err) {
      console.error(err);
      return;
    }
    try {
      message.respond(JSON.stringify((await execute(message.json())) ?? null));
    } catch (fault) {
      console.error(fault);
      message.respondError(500, String(fault?.message ?? fault));
    }
  },
});
console.log(`__NAME__ takes calls from ${nc.getServer()}`);

process.on('SIGTERM', () => nc.drain());
process.on('SIGINT', () => nc.drain());
await nc.closed();
