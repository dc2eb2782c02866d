// Recurrent layers: a whole sequence of steps in one call, so that no step pays for Python.
#include <cstddef>
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

bool recurrent_step(const Kernels& kernels, const std::vector<RecurrentLayer>& layers,
                    const RecurrentStep& s, int threads) {
  const int64_t gates = layers[0].hidden.rows, state = s.batch * s.hidden;
  std::vector<float> inputs(s.batch * gates), products(s.batch * gates);
  const float* x = s.x;
  for (std::size_t layer = 0; layer < layers.size(); layer++) {
    const float* h = s.h + layer * state;
    float* out = s.out + layer * state;
    if (!linear(kernels, layers[layer].input, x, s.batch, nullptr, inputs.data(), threads) ||
        !linear(kernels, layers[layer].hidden, h, s.batch, s.c ? inputs.data() : nullptr,
                products.data(), threads))
      return false;
    for (int64_t b = 0; b < s.batch; b++) {
      const int64_t place = b * s.hidden;
      if (s.c)
        kernels.lstm_cell(products.data() + b * gates, s.hidden, s.c + layer * state + place,
                          out + place);
      else
        kernels.gru_cell(inputs.data() + b * gates, products.data() + b * gates, s.hidden,
                         h + place, out + place);
    }
    x = out;
  }
  return true;
}

}  // namespace ttq
