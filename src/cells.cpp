// Recurrent layers: a whole sequence of steps in one call, so that no step pays for Python.
#include <vector>

#include "operators.h"

namespace ttq {

bool recurrent(const Kernels& kernels, const Weights& weights, const Sequence& s, int threads) {
  const int64_t gates = weights.rows, state = s.batch * s.hidden;
  std::vector<float> products(s.batch * gates);
  const float* h = s.h;
  for (int64_t step = 0; step < s.steps; step++) {
    const int64_t t = s.backward ? s.steps - 1 - step : step;
    const float* input = s.inputs + t * s.batch * gates;
    float* out = s.outputs + t * state;
    if (!linear(kernels, weights, h, s.batch, s.c ? input : nullptr, products.data(), threads))
      return false;
    for (int64_t b = 0; b < s.batch; b++) {
      const float* product = products.data() + b * gates;
      if (s.c)
        kernels.lstm_cell(product, s.hidden, s.c + b * s.hidden, out + b * s.hidden);
      else
        kernels.gru_cell(input + b * gates, product, s.hidden, h + b * s.hidden, out + b * s.hidden);
    }
    h = out;
  }
  return true;
}

}  // namespace ttq
