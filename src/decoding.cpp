// The dense parts of a decoding step, for many rows and on many threads.
#include <algorithm>
#include <cmath>
#include <vector>

#include "operators.h"
#include "parallel.h"

namespace ttq {

void attend_step(const Kernels& kernels, const DecodingStep& s, int threads) {
  const int64_t d = s.head_dim, half = d / 2, group = s.heads / s.kv_heads;
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(d)));
  parallel_for(s.batch * s.kv_heads, threads, [&](int64_t task) {
    float* keys = s.keys + task * s.capacity * d;
    float* values = s.values + task * s.capacity * d;
    kernels.rotate(s.k + task * d, s.cosine, s.sine, half, 1.0f, keys + s.position * d);
    std::copy_n(s.v + task * d, d, values + s.position * d);
    float* query = scratch_array<float>(Scratch::kSums, group * d + s.position + 1);
    for (int64_t g = 0; g < group; g++)
      kernels.rotate(s.q + (task * group + g) * d, s.cosine, s.sine, half, scale, query + g * d);
    kernels.attend({query, keys, values, group, s.position + 1, d, keys + s.capacity * d,
                    query + group * d, s.out + task * group * d});
  });
}

bool decoder_step(const Kernels& kernels, const std::vector<DecoderLayer>& layers,
                  const DecodingStep& step, float* x, int threads) {
  const int64_t n = step.batch, width = layers[0].q.columns;
  const int64_t heads = step.heads * step.head_dim, kv = step.kv_heads * step.head_dim;
  const int64_t wide = layers[0].down.columns;
  std::vector<float> memory(n * (2 * width + 2 * heads + 2 * kv + 2 * wide));
  float* place = memory.data();
  auto take = [&](int64_t columns) {
    float* taken = place;
    place += n * columns;
    return taken;
  };
  float *normed = take(width), *middle = take(width), *q = take(heads), *mixed = take(heads);
  float *k = take(kv), *v = take(kv), *gate = take(wide), *up = take(wide);
  auto norm = [&](const float* source, const float* weight, double epsilon) {
    for (int64_t b = 0; b < n; b++)
      kernels.rms_norm(source + b * width, weight, width, epsilon, normed + b * width);
  };
  for (const DecoderLayer& layer : layers) {
    norm(x, layer.attention_norm, layer.attention_epsilon);
    const Weights projections[] = {layer.q, layer.k, layer.v};
    float* const projected[] = {q, k, v};
    if (!linear_many(kernels, projections, 3, normed, n, projected, threads)) return false;
    DecodingStep s = step;
    s.q = q, s.k = k, s.v = v;
    s.keys = layer.keys, s.values = layer.values;
    s.out = mixed;
    attend_step(kernels, s, threads);
    if (!linear(kernels, layer.o, mixed, n, x, middle, threads)) return false;
    norm(middle, layer.feed_forward_norm, layer.feed_forward_epsilon);
    const Weights widening[] = {layer.gate, layer.up};
    float* const widened[] = {gate, up};
    if (!linear_many(kernels, widening, 2, normed, n, widened, threads)) return false;
    kernels.swiglu(gate, up, n * wide, gate);
    if (!linear(kernels, layer.down, gate, n, middle, x, threads)) return false;
  }
  return true;
}

}  // namespace ttq
