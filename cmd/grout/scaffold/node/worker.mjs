// Speaks grout's protocol: a line of JSON in on descriptor 3, lines of JSON out on 4.
import { Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { execute } from './logic.mjs';

const answers = new Socket({ fd: 4, readable: false, writable: true });
const send = (message) => answers.write(JSON.stringify(message) + '\n');
const publish = (name, data) => send({ publish: { name, data } });

const requests = createInterface({ input: new Socket({ fd: 3, readable: true, writable: false }) });
requests.on('close', () => process.exit(0));
requests.on('line', async (line) => {
  const { hello, call, data } = JSON.parse(line);
  if (hello) {
    send({ ready: true });
  }
  if (call === undefined) {
    return;
  }
  try {
    send({ call, result: (await execute(data, publish)) ?? null });
  } catch (err) {
    console.error(err);
    send({ call, error: String(err?.message ?? err) });
  }
});
