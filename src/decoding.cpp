// The dense parts of a decoding step, for many rows and on many threads.
#include <algorithm>
#include <cmath>

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
    kernels.attend({query, keys, values, group, s.position + 1, d, query + group * d,
                    s.out + task * group * d});
  });
}

}  // namespace ttq
