#include "chain_steps.h"

#include <algorithm>
#include <cmath>

#include "parallel.h"

namespace ttq {
namespace {

struct Range {
  int64_t begin, end;
};

// The inputs of output `o` of a pool that lie inside.
Range pool_range(int64_t o, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation,
                 int64_t size) {
  int64_t begin = o * stride - padding;
  const int64_t end = std::min(begin + (kernel - 1) * dilation + 1, size);
  while (begin < 0) begin += dilation;
  return {begin, end};
}

template <class Body>
void each_pixel(const Image& y, const Body& body) {
  for (int64_t i = 0; i < y.shape.height; i++)
    for (int64_t j = 0; j < y.shape.width; j++) body(i, j, y.at(i, j));
}

float relu_of(float value, bool relu) { return relu && value < 0 ? 0.0f : value; }

void divide(float* values, int64_t count, float by) {
  for (int64_t c = 0; c < count; c++) values[c] /= by;
}

void add_pixels(const Image& x, Range rows, Range columns, float* sums) {
  std::fill_n(sums, x.shape.channels, 0.0f);
  for (int64_t i = rows.begin; i < rows.end; i++)
    for (int64_t j = columns.begin; j < columns.end; j++) {
      const float* pixel = x.at(i, j);
      for (int64_t c = 0; c < x.shape.channels; c++) sums[c] += pixel[c];
    }
}

}  // namespace

void max_pool(const Step& step, const Image& x, const Image& y) {
  const auto& s = step.sizes;
  const int64_t channels = x.shape.channels;
  each_pixel(y, [&](int64_t i, int64_t j, float* out) {
    const Range rows = pool_range(i, s[0], s[2], s[4], s[6], x.shape.height);
    const Range columns = pool_range(j, s[1], s[3], s[5], s[7], x.shape.width);
    std::fill_n(out, channels, -INFINITY);
    for (int64_t a = rows.begin; a < rows.end; a += s[6])
      for (int64_t b = columns.begin; b < columns.end; b += s[7]) {
        const float* in = x.at(a, b);
        // The comparison's sense takes a NaN, which then stays.
        for (int64_t c = 0; c < channels; c++) out[c] = in[c] <= out[c] || out[c] != out[c] ? out[c] : in[c];
      }
  });
}

void average_pool(const Step& step, const Image& x, const Image& y) {
  const auto& s = step.sizes;
  each_pixel(y, [&](int64_t i, int64_t j, float* out) {
    const Range rows = pool_range(i, s[0], s[2], s[4], 1, x.shape.height);
    const Range columns = pool_range(j, s[1], s[3], s[5], 1, x.shape.width);
    add_pixels(x, rows, columns, out);
    int64_t count = (rows.end - rows.begin) * (columns.end - columns.begin);
    if (s[9]) {
      const int64_t top = i * s[2] - s[4], left = j * s[3] - s[5];
      count = (std::min(top + s[0], x.shape.height + s[4]) - top) *
              (std::min(left + s[1], x.shape.width + s[5]) - left);
    }
    divide(out, x.shape.channels, static_cast<float>(count));
  });
}

void adaptive_pool(const Image& x, const Image& y) {
  const auto range = [](int64_t o, int64_t out, int64_t in) {
    return Range{o * in / out, ((o + 1) * in + out - 1) / out};
  };
  each_pixel(y, [&](int64_t i, int64_t j, float* out) {
    const Range rows = range(i, y.shape.height, x.shape.height);
    const Range columns = range(j, y.shape.width, x.shape.width);
    add_pixels(x, rows, columns, out);
    divide(out, x.shape.channels,
           static_cast<float>((rows.end - rows.begin) * (columns.end - columns.begin)));
  });
}

void subsample(const Step& step, const Image& x, const Image& y) {
  const auto& s = step.sizes;
  each_pixel(y, [&](int64_t i, int64_t j, float* out) {
    std::fill_n(out, s[2], 0.0f);
    std::copy_n(x.at(i * s[0], j * s[1]), x.shape.channels, out + s[2]);
    std::fill_n(out + s[2] + x.shape.channels, s[3], 0.0f);
  });
}

void norm(const Step& step, const float* const* tensors, const Image& x, const Image& y) {
  const int64_t channels = x.shape.channels;
  float* scale = scratch_array<float>(Scratch::kTables, 2 * channels);
  float* shift = scale + channels;
  for (int64_t c = 0; c < channels; c++) {
    double factor = 1.0 / std::sqrt(static_cast<double>(tensors[3][c]) + step.numbers[0]);
    if (tensors[0]) factor *= tensors[0][c];
    scale[c] = static_cast<float>(factor);
    shift[c] = static_cast<float>((tensors[1] ? tensors[1][c] : 0.0) - tensors[2][c] * factor);
  }
  each_pixel(y, [&](int64_t i, int64_t j, float* out) {
    const float* in = x.at(i, j);
    for (int64_t c = 0; c < channels; c++)
      out[c] = relu_of(in[c] * scale[c] + shift[c], step.relu);
  });
}

void clamp(float low, float high, const Image& x, const Image& y) {
  each_pixel(y, [&](int64_t i, int64_t j, float* out) {
    const float* in = x.at(i, j);
    for (int64_t c = 0; c < x.shape.channels; c++) {
      const float least = in[c] < low ? low : in[c];
      out[c] = least > high ? high : least;
    }
  });
}

void add(const Image& x, const Image& other, bool relu, const Image& y) {
  each_pixel(y, [&](int64_t i, int64_t j, float* out) {
    const float *a = x.at(i, j), *b = other.at(i, j);
    for (int64_t c = 0; c < x.shape.channels; c++) out[c] = relu_of(a[c] + b[c], relu);
  });
}

void flatten(const Image& x, float* y) {
  const int64_t pixels = x.shape.height * x.shape.width;
  copy_out(x, y, x.shape.width, 1, pixels);
}

void copy_out(const Image& x, float* y, int64_t row, int64_t pixel, int64_t channel) {
  each_pixel(x, [&](int64_t i, int64_t j, const float* in) {
    float* out = y + i * row + j * pixel;
    for (int64_t c = 0; c < x.shape.channels; c++) out[c * channel] = in[c];
  });
}

}  // namespace ttq
