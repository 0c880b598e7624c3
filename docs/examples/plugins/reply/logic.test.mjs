// Run with: node --test logic.test.mjs
import assert from 'node:assert/strict';
import test from 'node:test';
import { execute } from './logic.mjs';

test('answers and says what it took', async () => {
  const told = [];
  const result = await execute({ question: 'Why?' }, (name) => told.push(name));
  assert.equal(result.text, 'You asked: Why?');
  assert.deepEqual(result._usage, [{ model: 'example-1', input_tokens: 1, output_tokens: 4 }]);
  assert.deepEqual(told, ['replied']);
});

test('a question that is none', async () => {
  await assert.rejects(execute({}, () => {}), /question must be a string/);
});
