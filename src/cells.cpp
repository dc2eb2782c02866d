// The pointwise part of recurrent cells.
#include <cmath>

#include "operators.h"

namespace ttq {
namespace {

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

}  // namespace

void lstm_cell(const float* gates, const float* c, int64_t batch, int64_t hidden, float* new_h,
               float* new_c) {
  for (int64_t b = 0; b < batch; b++) {
    const float* i = gates + b * 4 * hidden;
    const float *f = i + hidden, *g = f + hidden, *o = g + hidden;
    for (int64_t j = 0; j < hidden; j++) {
      const int64_t place = b * hidden + j;
      new_c[place] = sigmoid(f[j]) * c[place] + sigmoid(i[j]) * std::tanh(g[j]);
      new_h[place] = sigmoid(o[j]) * std::tanh(new_c[place]);
    }
  }
}

}  // namespace ttq
