// Run with: node --test __DIR__/logic.test.mjs
import assert from 'node:assert/strict';
import test from 'node:test';
import { execute } from './logic.mjs';

test('greets by name', async () => {
  assert.deepEqual(await execute({ user_id: 'u1', name: 'Ann' }), { text: 'Hello Ann!' });
});

test('greets the user without a name', async () => {
  assert.deepEqual(await execute({ user_id: 'u1' }), { text: 'Hello u1!' });
});

test('shouts', async () => {
  assert.deepEqual(await execute({ user_id: 'u1', action: 'shout' }), { text: 'HELLO U1!' });
});
