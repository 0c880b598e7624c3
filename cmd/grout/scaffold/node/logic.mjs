// data is what the client sent, with user_id, app_id, _context and _entitlements added.
// What is returned is sent to the client as JSON. publish(name, value) tells subscribers
// of plugin.<name>. What is printed goes to the plugin's log.
export async function execute(data, publish) {
  const who = data.name ?? data.user_id;
  console.log(`greeting ${who}`);
  if (data.action === 'shout') {
    return { text: `HELLO ${who.toUpperCase()}!` };
  }
  return { text: `Hello ${who}!` };
}
