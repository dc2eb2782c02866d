// Exchanging rows and columns. Included by common_kernels.h.

typedef float FourFloats __attribute__((vector_size(16)));

static inline void transpose_four(const float* x, int64_t x_stride, float* y, int64_t y_stride) {
  const FourFloats a = load<FourFloats>(x), b = load<FourFloats>(x + x_stride);
  const FourFloats c = load<FourFloats>(x + 2 * x_stride), d = load<FourFloats>(x + 3 * x_stride);
  const FourFloats ab = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  const FourFloats cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const FourFloats ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const FourFloats cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  store(y, __builtin_shufflevector(ab, cd, 0, 1, 4, 5));
  store(y + y_stride, __builtin_shufflevector(ab, cd, 2, 3, 6, 7));
  store(y + 2 * y_stride, __builtin_shufflevector(ab2, cd2, 0, 1, 4, 5));
  store(y + 3 * y_stride, __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7));
}

// y[j][i] = x[i][j] of floats that do not overlap. With ROWS_FIRST four rows of x are read from end
// to end, else four rows of y are written so: for the side whose rows lie so far apart that lines of
// several evict each other.
template <bool ROWS_FIRST>
static inline void transpose_floats(const float* x, int64_t x_stride, int64_t rows,
                                    int64_t columns, float* y, int64_t y_stride) {
  if (rows < 4 || columns < 4) {
    for (int64_t i = 0; i < rows; i++)
      for (int64_t j = 0; j < columns; j++) y[j * y_stride + i] = x[i * x_stride + j];
    return;
  }
  const int64_t outer_end = ROWS_FIRST ? rows : columns, inner_end = ROWS_FIRST ? columns : rows;
  // The last four of an uneven number do some again.
  for (int64_t outer = 0; outer < outer_end; outer += 4) {
    outer = smaller(outer, outer_end - 4);
    for (int64_t inner = 0; inner < inner_end; inner += 4) {
      inner = smaller(inner, inner_end - 4);
      const int64_t i = ROWS_FIRST ? outer : inner, j = ROWS_FIRST ? inner : outer;
      transpose_four(x + i * x_stride + j, x_stride, y + j * y_stride + i, y_stride);
    }
  }
}
