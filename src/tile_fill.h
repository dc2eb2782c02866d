// The padded channels-last images that tiles read. Included by common_kernels.h.

static inline int8_t quantized(float x, float multiplier) {
  const float shifted = x * multiplier + kRounder;
  int32_t bits;
  __builtin_memcpy(&bits, &shifted, 4);
  return static_cast<int8_t>(bits);
}

static inline VecI quantized_bits(const float* x, float multiplier) {
  return reinterpret_cast<VecI>(load<VecF>(x) * multiplier + kRounder);
}

// `count` floats to bytes, in order.
static inline void quantize_bytes(const float* x, int64_t count, float multiplier, int8_t* out) {
  constexpr int kWidth = VECTOR_BYTES / 4;
  typedef int8_t Bytes __attribute__((vector_size(VECTOR_BYTES / 4)));
  int64_t i = 0;
#if VECTOR_BYTES == 32
  const __m256 factor = _mm256_set1_ps(multiplier);
  const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  for (; i + 4 * kWidth <= count; i += 4 * kWidth) {
    __m256i ints[4];
    for (int v = 0; v < 4; v++)
      ints[v] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + v * kWidth), factor));
    const __m256i mixed = _mm256_packs_epi16(_mm256_packs_epi32(ints[0], ints[1]),
                                             _mm256_packs_epi32(ints[2], ints[3]));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i),
                        _mm256_permutevar8x32_epi32(mixed, in_order));
  }
#endif
  for (; i + kWidth <= count; i += kWidth)
    store(out + i, __builtin_convertvector(quantized_bits(x + i, multiplier), Bytes));
  for (; i < count; i++) out[i] = quantized(x[i], multiplier);
}

// Four channels of one vector of pixels.
static inline void quantize_four(const float* x, int64_t channel_stride, float multiplier,
                                 int64_t channels, int8_t* out) {
  constexpr int kWidth = VECTOR_BYTES / 4;
  VecI bytes = quantized_bits(x, multiplier) & 255;
  for (int c = 1; c < 3; c++)
    bytes |= (quantized_bits(x + c * channel_stride, multiplier) & 255) << (8 * c);
  bytes |= quantized_bits(x + 3 * channel_stride, multiplier) << 24;
  for (int i = 0; i < kWidth; i++) {
    const int32_t four = bytes[i];
    __builtin_memcpy(out + i * channels, &four, 4);
  }
}

// A row of pixels of which those of a channel are consecutive.
static inline void quantize_planes(const ImageFill& f, const float* x, int8_t* out) {
  constexpr int kWidth = VECTOR_BYTES / 4;
  int64_t c = 0;
  if (f.columns >= kWidth) {
    for (; c + 4 <= f.channels; c += 4)
      for (int64_t i = 0; i < f.columns; i += kWidth) {
        i = smaller(i, f.columns - kWidth);  // the last ones may be done again
        quantize_four(x + c * f.channel_stride + i, f.channel_stride, f.multiplier, f.channels,
                      out + i * f.channels + c);
      }
  }
  for (; c < f.channels; c++)
    for (int64_t i = 0; i < f.columns; i++)
      out[i * f.channels + c] = quantized(x[c * f.channel_stride + i], f.multiplier);
}

static inline void fill_row(const ImageFill& f, const float* x, int8_t* out) {
  if (f.channel_stride == 1 && f.column_stride == f.channels) {
    quantize_bytes(x, f.columns * f.channels, f.multiplier, out);
  } else if (f.channel_stride == 1) {
    for (int64_t i = 0; i < f.columns; i++)
      quantize_bytes(x + i * f.column_stride, f.channels, f.multiplier, out + i * f.channels);
  } else if (f.column_stride == 1) {
    quantize_planes(f, x, out);
  } else {
    for (int64_t i = 0; i < f.columns; i++)
      for (int64_t c = 0; c < f.channels; c++)
        *out++ = quantized(x[i * f.column_stride + c * f.channel_stride], f.multiplier);
  }
}

static inline void fill_row(const ImageFill& f, const float* x, float* out) {
  if (f.channel_stride == 1 && f.column_stride == f.channels) {
    copy_floats(x, f.columns * f.channels, out);
  } else if (f.channel_stride == 1) {
    for (int64_t i = 0; i < f.columns; i++)
      copy_floats(x + i * f.column_stride, f.channels, out + i * f.channels);
  } else if (f.column_stride == 1) {
    transpose_floats<true>(x, f.channel_stride, f.channels, f.columns, out, f.channels);
  } else {
    for (int64_t i = 0; i < f.columns; i++)
      for (int64_t c = 0; c < f.channels; c++)
        *out++ = x[i * f.column_stride + c * f.channel_stride];
  }
}

template <class T>
static inline void fill_rows(ImageFill f) {
  // Columns that strides leave out at the right are not copied.
  const int64_t columns = smaller(f.columns, f.out_columns - f.left);
  f.columns = columns > 0 ? columns : 0;
  const int64_t row_values = f.out_columns * f.channels;
  const int64_t left = smaller(f.left, f.out_columns) * f.channels;
  const int64_t right = row_values - left - f.columns * f.channels;
  for (int64_t row = f.row_begin; row < f.row_end; row++) {
    T* out = static_cast<T*>(f.out) + row * row_values;
    const int64_t y = row - f.top;
    if (y < 0 || y >= f.rows) {
      __builtin_memset(out, 0, static_cast<unsigned long>(row_values) * sizeof(T));
      continue;
    }
    __builtin_memset(out, 0, static_cast<unsigned long>(left) * sizeof(T));
    fill_row(f, f.x + y * f.row_stride, out + left);
    __builtin_memset(out + row_values - right, 0, static_cast<unsigned long>(right) * sizeof(T));
  }
}

static void fill_float(const ImageFill& f) { fill_rows<float>(f); }
static void fill_byte(const ImageFill& f) { fill_rows<int8_t>(f); }
