// A stand-in for a call of a model. What is in _usage is counted as usage of the run and
// taken out of what the client gets.
export async function execute(data, publish) {
  if (typeof data.question !== 'string') {
    throw new Error('question must be a string');
  }
  const text = `You asked: ${data.question}`;
  publish('replied', { characters: text.length });
  return {
    text,
    _usage: [{ model: 'example-1', input_tokens: tokens(data.question), output_tokens: tokens(text) }],
  };
}

const tokens = (text) => Math.ceil(text.length / 4);
