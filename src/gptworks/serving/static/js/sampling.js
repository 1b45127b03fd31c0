// How the settings change a distribution, by the same rule as generation/sampling.py, for the figure.

/** Apply temperature, top-k, top-p and min-p to probabilities sorted in descending order. The result sums to 1. */
export function reshape(probabilities, { temperature, top_k, top_p, min_p }) {
  if (temperature === 0) return probabilities.map((_, place) => (place === 0 ? 1 : 0));
  const highest = Math.log(probabilities[0]);
  let weights = normal(probabilities.map((p) => Math.exp((Math.log(p) - highest) / temperature)));
  if (top_k > 0) weights = normal(weights.map((w, place) => (place < top_k ? w : 0)));
  if (top_p < 1) {
    let likelier = 0;
    weights = weights.map((w) => {
      const kept = likelier < top_p ? w : 0;
      likelier += w;
      return kept;
    });
  }
  if (min_p > 0) weights = weights.map((w) => (w < min_p * weights[0] ? 0 : w));
  return normal(weights);
}

function normal(weights) {
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map((w) => w / sum);
}

/** The example in the figure until there is a real distribution. */
export const EXAMPLE = [
  ["mat", 0.36], ["floor", 0.22], ["bed", 0.15], ["sofa", 0.11], ["table", 0.08], ["roof", 0.05], ["moon", 0.02], ["law", 0.01],
].map(([text, p]) => ({ text, logprob: Math.log(p) }));
