// The dense loops of a recurrent or decoding step, between its matrix products.
//
// Included by common_kernels.h in each instruction set's namespace.

// e^x to about 1e-7 relative, in a form that compilers vectorize: 2^n times a polynomial
// (Taylor, degree 7) on |r| <= ln(2) / 2. A NaN stays one.
static inline float exponential(float x) {
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
  __builtin_memcpy(&bits, &shifted, 4);
  bits = static_cast<int32_t>((static_cast<uint32_t>(bits) - 0x4b400000u + 127u) << 23);
  float power;
  __builtin_memcpy(&power, &bits, 4);
  return p * power;
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }
static inline float hyperbolic_tangent(float x) {
  return 1.0f - 2.0f / (exponential(2.0f * x) + 1.0f);
}

// gates (4 hidden) in torch's order i, f, g, o.
static void lstm_cell(const float* __restrict gates, int64_t hidden, float* __restrict c,
                      float* __restrict h) {
  const float *i = gates, *f = i + hidden, *g = f + hidden, *o = g + hidden;
  for (int64_t j = 0; j < hidden; j++)
    c[j] = sigmoid(f[j]) * c[j] + sigmoid(i[j]) * hyperbolic_tangent(g[j]);
  for (int64_t j = 0; j < hidden; j++) h[j] = sigmoid(o[j]) * hyperbolic_tangent(c[j]);
}

// Input and hidden products (3 hidden each) in torch's order r, z, n.
static void gru_cell(const float* __restrict input, const float* __restrict product,
                     int64_t hidden, const float* __restrict before, float* __restrict h) {
  for (int64_t j = 0; j < hidden; j++) {
    const float r = sigmoid(input[j] + product[j]);
    const float z = sigmoid(input[hidden + j] + product[hidden + j]);
    const float n = hyperbolic_tangent(input[2 * hidden + j] + r * product[2 * hidden + j]);
    h[j] = n + z * (before[j] - n);
  }
}

// y = gate sigmoid(gate) up; y may be gate or up.
static void swiglu(const float* gate, const float* up, int64_t count, float* y) {
  for (int64_t i = 0; i < count; i++) y[i] = gate[i] * sigmoid(gate[i]) * up[i];
}

static inline float sum_of_lanes(VecF v) {
  float total = 0;
  for (unsigned i = 0; i < VECTOR_BYTES / 4; i++) total += v[i];
  return total;
}

FUSE_MULTIPLY_ADD
static void rms_norm(const float* x, const float* weight, int64_t count, double epsilon, float* y) {
#if defined(__clang__)
#pragma clang fp contract(fast)
#endif
  constexpr int kWidth = VECTOR_BYTES / 4;
  VecF sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * kWidth <= count; i += 4 * kWidth)
    for (int u = 0; u < 4; u++) {
      const VecF v = load<VecF>(x + i + u * kWidth);
      sums[u] += v * v;
    }
  double total = sum_of_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; i < count; i++) total += x[i] * x[i];
  const float scale =
      static_cast<float>(1.0 / __builtin_sqrt(total / static_cast<double>(count) + epsilon));
  for (i = 0; i < count; i++) y[i] = x[i] * scale * weight[i];
}

// Rotary positions: the pair (x[i], x[i + half]) turned by its angle.
static void rotate(const float* __restrict x, const float* __restrict cosine,
                   const float* __restrict sine, int64_t half, float scale, float* __restrict y) {
  for (int64_t i = 0; i < half; i++) y[i] = (x[i] * cosine[i] - x[i + half] * sine[i]) * scale;
  for (int64_t i = 0; i < half; i++)
    y[i + half] = (x[i + half] * cosine[i + half] + x[i] * sine[i + half]) * scale;
}

// Where a row lies that comes a page's length after this one: hardware stops fetching ahead at each
// page. Behind the last row, `next` follows.
static inline const float* row_ahead(const float* rows, int64_t row, int64_t length,
                                     int64_t columns, const float* next) {
  constexpr int64_t kAheadFloats = 1024;
  const int64_t ahead = row + (columns < kAheadFloats ? kAheadFloats / columns : 1);
  return ahead < length ? rows + ahead * columns : next + (ahead - length) * columns;
}

constexpr int64_t kTileRows = 32;       // rows of values that stay in the first-level cache

FUSE_MULTIPLY_ADD
static void scores_of(const float* query, const float* keys, int64_t length, int64_t columns,
                      const float* next, float* scores) {
#if defined(__clang__)
#pragma clang fp contract(fast)
#endif
  constexpr int kWidth = VECTOR_BYTES / 4;
  constexpr int kRows = 4;
  int64_t row = 0;
  for (; row + kRows <= length; row += kRows) {
    VecF sums[kRows][2] = {};
    const float* k = keys + row * columns;
    const float* ahead[kRows];
    for (int r = 0; r < kRows; r++) ahead[r] = row_ahead(keys, row + r, length, columns, next);
    int64_t j = 0;
    for (; j + 2 * kWidth <= columns; j += 2 * kWidth) {
      const VecF low = load<VecF>(query + j), high = load<VecF>(query + j + kWidth);
      for (int r = 0; r < kRows; r++) {
        const float* place = k + r * columns + j;
        __builtin_prefetch(ahead[r] + j);
        sums[r][0] += low * load<VecF>(place);
        sums[r][1] += high * load<VecF>(place + kWidth);
      }
    }
    for (int r = 0; r < kRows; r++) {
      float total = sum_of_lanes(sums[r][0] + sums[r][1]);
      for (int64_t i = j; i < columns; i++) total += query[i] * k[r * columns + i];
      scores[row + r] = total;
    }
  }
  for (; row < length; row++) {
    float total = 0;
    for (int64_t i = 0; i < columns; i++) total += query[i] * keys[row * columns + i];
    scores[row] = total;
  }
}

// y = sum of weights[p] values[p].
FUSE_MULTIPLY_ADD
static void weighted_rows(const float* weights, const float* values, int64_t length,
                          int64_t columns, const float* next, float* y) {
#if defined(__clang__)
#pragma clang fp contract(fast)
#endif
  constexpr int kWidth = VECTOR_BYTES / 4;
  constexpr int kVectors = 8;
  for (int64_t j = 0; j < columns; j++) y[j] = 0;
  for (int64_t first = 0; first < length; first += kTileRows) {
    const int64_t last = smaller(first + kTileRows, length);
    int64_t j = 0;
    for (; j + kVectors * kWidth <= columns; j += kVectors * kWidth) {
      VecF sums[kVectors];
      for (int v = 0; v < kVectors; v++) sums[v] = load<VecF>(y + j + v * kWidth);
      for (int64_t p = first; p < last; p++) {
        const float* place = values + p * columns + j;
        const float* ahead = row_ahead(values, p, length, columns, next) + j;
        const float weight = weights[p];
        for (int v = 0; v < kVectors; v++) {
          if (v % (64 / VECTOR_BYTES) == 0) __builtin_prefetch(ahead + v * kWidth);
          sums[v] += weight * load<VecF>(place + v * kWidth);
        }
      }
      for (int v = 0; v < kVectors; v++) store(y + j + v * kWidth, sums[v]);
    }
    for (; j < columns; j++) {
      float total = y[j];
      for (int64_t p = first; p < last; p++) total += weights[p] * values[p * columns + j];
      y[j] = total;
    }
  }
}

// Turns scores into e^(score - largest); returns their sum.
static float exponentials(float* scores, int64_t length) {
  constexpr int kWidth = VECTOR_BYTES / 4;
  VecF most = VecF{} + scores[0];
  int64_t p = 0;
  for (; p + kWidth <= length; p += kWidth) {
    const VecF v = load<VecF>(scores + p);
    most = v > most ? v : most;
  }
  float largest_score = most[0];
  for (int i = 1; i < kWidth; i++) largest_score = most[i] > largest_score ? most[i] : largest_score;
  for (; p < length; p++) largest_score = scores[p] > largest_score ? scores[p] : largest_score;
  for (p = 0; p < length; p++) scores[p] = exponential(scores[p] - largest_score);
  VecF sums = {};
  for (p = 0; p + kWidth <= length; p += kWidth) sums += load<VecF>(scores + p);
  float total = sum_of_lanes(sums);
  for (; p < length; p++) total += scores[p];
  return total;
}

// softmax(queries keys^T) values, one query after the other.
static void attend(const AttendedHead& head) {
  const int64_t length = head.length, columns = head.columns;
  for (int64_t g = 0; g < head.queries; g++) {
    scores_of(head.query + g * columns, head.keys, length, columns, head.values,
              head.weights);
    const float scale = 1.0f / exponentials(head.weights, length);
    float* y = head.out + g * columns;
    weighted_rows(head.weights, head.values, length, columns, head.next, y);
    for (int64_t j = 0; j < columns; j++) y[j] *= scale;
  }
}
