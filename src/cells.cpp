// Recurrent layers: a whole sequence of steps in one call, so that no step pays for Python.
#include <cstring>
#include <vector>

#include "operators.h"

namespace ttq {
namespace {

// e^x to about 1e-7 relative, in a form that compilers vectorize: 2^n times a polynomial
// (Taylor, degree 7) on |r| <= ln(2) / 2. A NaN stays one.
inline float exponential(float x) {
  constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float shifted = x * 1.44269504f + kRounder;
  const float n = shifted - kRounder;
  const float r = x - n * 0.693145752f - n * 1.42860677e-6f;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  int32_t bits;
  std::memcpy(&bits, &shifted, 4);
  bits = static_cast<int32_t>((static_cast<uint32_t>(bits) - 0x4b400000u + 127u) << 23);
  float power;
  std::memcpy(&power, &bits, 4);
  return p * power;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }
inline float hyperbolic_tangent(float x) { return 1.0f - 2.0f / (exponential(2.0f * x) + 1.0f); }

// gates (4 hidden) in torch's order i, f, g, o.
void lstm_cell(const float* gates, int64_t hidden, float* c, float* h) {
  const float *i = gates, *f = i + hidden, *g = f + hidden, *o = g + hidden;
  for (int64_t j = 0; j < hidden; j++)
    c[j] = sigmoid(f[j]) * c[j] + sigmoid(i[j]) * hyperbolic_tangent(g[j]);
  for (int64_t j = 0; j < hidden; j++) h[j] = sigmoid(o[j]) * hyperbolic_tangent(c[j]);
}

// Input and hidden products (3 hidden each) in torch's order r, z, n.
void gru_cell(const float* input, const float* product, int64_t hidden, const float* before,
              float* h) {
  for (int64_t j = 0; j < hidden; j++) {
    const float r = sigmoid(input[j] + product[j]);
    const float z = sigmoid(input[hidden + j] + product[hidden + j]);
    const float n = hyperbolic_tangent(input[2 * hidden + j] + r * product[2 * hidden + j]);
    h[j] = n + z * (before[j] - n);
  }
}

}  // namespace

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
        lstm_cell(product, s.hidden, s.c + b * s.hidden, out + b * s.hidden);
      else
        gru_cell(input + b * gates, product, s.hidden, h + b * s.hidden, out + b * s.hidden);
    }
    h = out;
  }
  return true;
}

}  // namespace ttq
