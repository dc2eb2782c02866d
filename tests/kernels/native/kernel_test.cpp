// Compares the kernels named on the command line with the portable ones on random input, bit for
// bit; exits 0 when all agree. Built by tests/kernels, also with emulated or foreign instruction
// sets, so it asks no CPU what it has.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "layout.h"
#include "operators.h"
#include "parallel.h"

namespace {

using namespace ttq;

std::mt19937 random_bits(7);
int failures = 0;

int64_t pick(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random_bits);
}

void check(bool good, const char* kernels, const std::string& what) {
  if (good) return;
  failures++;
  std::printf("%s: %s differs from portable\n", kernels, what.c_str());
}

std::vector<float> floats(int64_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random_bits);
  return values;
}

std::vector<int8_t> random_codes(int64_t count) {
  std::vector<int8_t> codes(count);
  for (int8_t& code : codes) code = static_cast<int8_t>(pick(-1, 1));
  return codes;
}

bool near(const std::vector<float>& a, const std::vector<float>& b, double tolerance) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); i++) {
    difference += (double(a[i]) - b[i]) * (double(a[i]) - b[i]);
    size += double(b[i]) * b[i];
  }
  return std::sqrt(difference) <= tolerance * std::sqrt(size);
}

std::vector<uint8_t> packed_as(Layout layout, const std::vector<int8_t>& codes, int64_t rows,
                               int64_t columns) {
  std::vector<uint8_t> packed(packed_bytes(layout, rows, columns));
  pack(layout, codes.data(), rows, columns, packed.data(), 1);
  return packed;
}

struct Layer {
  Layer(int64_t rows, int64_t columns, bool quantized) : codes(random_codes(rows * columns)) {
    packed = packed_as(Layout::kNibbles, codes, rows, columns);
    pos = floats(rows);
    neg = floats(rows);
    const int64_t kind = pick(0, 2);
    if (kind == 1) {
      std::fill(pos.begin(), pos.end(), pos[0]);
      std::fill(neg.begin(), neg.end(), neg[0]);
    } else if (kind == 2) {  // of one ratio, as a folded batch norm leaves them; one row without any
      for (int64_t r = 0; r < rows; r++) neg[r] = 0.7f * pos[r];
      const int64_t none = pick(0, rows - 1);
      pos[none] = neg[none] = 0;
    }
    bias = floats(rows);
    weights = {packed.data(), rows,        columns,      pos.data(),
               neg.data(),    bias.data(), pick(0, 1) == 1, quantized};
  }
  std::vector<int8_t> codes;
  std::vector<uint8_t> packed;
  std::vector<float> pos, neg, bias;
  Weights weights;
};

void test_layouts() {
  const int64_t rows = pick(1, 400), columns = pick(1, 300);
  const std::vector<int8_t> codes = random_codes(rows * columns);
  for (Layout layout : {Layout::kNibbles, Layout::kTriples, Layout::kSextets}) {
    const std::vector<uint8_t> packed = packed_as(layout, codes, rows, columns);
    std::vector<int8_t> unpacked(codes.size());
    unpack(layout, packed.data(), rows, columns, unpacked.data(), 1);
    check(unpacked == codes, "layout", std::to_string(static_cast<int>(layout)) + " unpacked");
  }
}

void test_linear(const Kernels& kernels, bool quantized) {
  const int64_t rows = pick(1, 400), columns = pick(1, 700), count = pick(1, 80);
  const Layer layer(rows, columns, quantized);
  const std::vector<float> x = floats(count * columns);
  std::vector<float> y(count * rows), expected(count * rows);
  // In the layout that these kernels like best, given in any.
  Weights given = layer.weights;
  const Layout layouts[] = {Layout::kNibbles, Layout::kTriples, Layout::kSextets};
  given.layout = best_layout(kernels, rows, columns, quantized);
  if (pick(0, 3) == 0) given.layout = layouts[pick(0, 2)];
  const std::vector<uint8_t> packed = packed_as(given.layout, layer.codes, rows, columns);
  given.codes = packed.data();
  const ReadableWeights weights(kernels, given, 1);
  std::vector<float> residual = floats(count * rows);
  const int threads = static_cast<int>(pick(1, 3));
  linear(kernels, *weights, x.data(), count, residual.data(), y.data(), threads);
  linear(*portable_kernels(), layer.weights, x.data(), count, residual.data(), expected.data(), 1);
  const bool good = quantized ? y == expected : near(y, expected, 1e-6);
  check(good, kernels.name, "linear " + std::to_string(count) + " x " + std::to_string(columns) +
                                " x " + std::to_string(rows));
}

void test_conv2d(const Kernels& kernels, bool quantized) {
  Conv2dShape s{};
  s.images = pick(1, 2);
  const bool depthwise = pick(0, 3) == 0;
  s.groups = depthwise ? pick(2, 40) : pick(1, 2);
  const int64_t channels = depthwise ? 1 : pick(1, 9);
  s.channels = channels * s.groups;
  s.out_channels = (depthwise ? 1 : pick(1, 40)) * s.groups;
  s.height = pick(5, 14);
  s.width = pick(5, 30);
  s.kernel_height = pick(1, 3);
  s.kernel_width = pick(1, 3);
  s.stride_height = pick(1, 2);
  s.stride_width = pick(1, 3);
  s.padding_height = pick(0, 2);
  s.padding_width = pick(0, 1);
  s.dilation_height = pick(1, 2);
  s.dilation_width = pick(1, 2);
  s.column_stride = 1;
  s.row_stride = s.width;
  s.channel_stride = s.height * s.width;
  s.image_stride = s.channels * s.channel_stride;
  auto size = [](int64_t in, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
    return (in + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
  };
  s.out_height = size(s.height, s.kernel_height, s.stride_height, s.padding_height, s.dilation_height);
  s.out_width = size(s.width, s.kernel_width, s.stride_width, s.padding_width, s.dilation_width);
  s.shared_tables = channels % 4 == 0;
  const Layer layer(s.out_channels, channels * s.kernel_height * s.kernel_width, quantized);
  const std::vector<float> x = floats(s.images * s.image_stride);
  const int64_t outputs = s.images * s.out_channels * s.out_height * s.out_width;
  std::vector<float> y(outputs), expected(outputs), residual = floats(outputs);
  conv2d(kernels, layer.weights, s, x.data(), residual.data(), y.data(), 1);
  conv2d(*portable_kernels(), layer.weights, s, x.data(), residual.data(), expected.data(), 1);
  check(quantized ? y == expected : near(y, expected, 1e-6), kernels.name, "conv2d");
}

// A convolution's codes (out, channel, tap) in the order of columns that a layout wants.
std::vector<int8_t> ordered(const std::vector<int8_t>& codes, const Conv2dShape& s,
                            const WindowColumns& to) {
  const int64_t channels = s.channels / s.groups, taps = s.kernel_height * s.kernel_width;
  const bool wide = to.layout != Layout::kNibbles;
  const int64_t columns = wide ? to.columns() : channels * taps;
  std::vector<int8_t> matrix(s.out_channels * columns);
  for (int64_t row = 0; row < s.out_channels; row++)
    for (int64_t c = 0; c < channels; c++)
      for (int64_t tap = 0; tap < taps; tap++) {
        const int64_t run = to.shared ? tap / s.kernel_width : 0;
        const int64_t place =
            wide ? run * to.run_columns + (tap - run * s.kernel_width) * to.pixel_columns + c
            : s.shared_tables ? (c / 4 * taps + tap) * 4 + c % 4
                              : c * taps + tap;
        matrix[row * columns + place] = codes[(row * channels + c) * taps + tap];
      }
  return matrix;
}

// Convolutions of as many outputs as wide layouts serve, packed as these kernels or others like best.
void test_wide_conv2d(const Kernels& kernels, const Kernels& packer, bool quantized) {
  Conv2dShape s{};
  s.images = pick(1, 2);
  s.groups = pick(1, 4) == 1 ? 2 : 1;
  const int64_t channels = pick(12, 20) * 4;
  s.channels = channels * s.groups;
  s.out_channels = pick(1, 3) * 64 * s.groups;
  s.kernel_height = pick(1, 3);
  s.kernel_width = pick(1, 3);
  s.stride_height = pick(1, 2);
  s.stride_width = pick(1, 2);
  s.padding_height = pick(0, 1);
  s.padding_width = pick(0, 1);
  s.dilation_height = pick(1, 2);
  s.dilation_width = pick(0, 2) ? 1 : 2;
  s.out_height = pick(1, 3);
  s.out_width = pick(1, 7);
  const auto size = [](int64_t out, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation) {
    return std::max<int64_t>(1, (out - 1) * stride + dilation * (kernel - 1) + 1 - 2 * pad);
  };
  s.height = size(s.out_height, s.kernel_height, s.stride_height, s.padding_height, s.dilation_height);
  s.width = size(s.out_width, s.kernel_width, s.stride_width, s.padding_width, s.dilation_width);
  s.channels_last = pick(0, 1) == 1;
  s.channel_stride = s.channels_last ? 1 : s.height * s.width;
  s.column_stride = s.channels_last ? s.channels : 1;
  s.row_stride = s.width * s.column_stride;
  s.image_stride = s.channels * s.height * s.width;
  s.shared_tables = channels % 4 == 0;
  const int64_t columns = channels * s.kernel_height * s.kernel_width;
  const Layer layer(s.out_channels, columns, quantized);
  const std::vector<float> x = floats(s.images * s.image_stride);
  const int64_t outputs = s.images * s.out_channels * s.out_height * s.out_width;
  std::vector<float> y(outputs), expected(outputs), residual = floats(outputs);
  const WindowShape shape{s.out_channels, channels, s.kernel_height, s.kernel_width, columns};
  const auto run = [&](const Kernels& with, const WindowColumns& window, int threads,
                       std::vector<float>& out) {
    const std::vector<int8_t> matrix = ordered(layer.codes, s, window);
    const std::vector<uint8_t> packed = packed_as(
        window.layout, matrix, s.out_channels, static_cast<int64_t>(matrix.size()) / s.out_channels);
    Weights w = layer.weights;
    w.codes = packed.data();
    w.layout = window.layout;
    w.window = window;
    const ReadableWeights readable(with, w, s, 1);
    conv2d(with, *readable, s, x.data(), residual.data(), out.data(), threads);
  };
  WindowColumns window = best_window_columns(packer, shape, quantized);
  check(window_columns_of(packed_bytes(window, shape), shape).columns() == window.columns(),
        packer.name, "the length");
  const Layout layout = quantized ? Layout::kSextets : Layout::kTriples;
  if ((quantized ? packer.sextet_sums != nullptr : packer.triple_sums != nullptr) && pick(0, 1))
    window = window_columns(layout, pick(0, 1) == 1, shape);
  run(kernels, window, static_cast<int>(pick(1, 2)), y);
  run(*portable_kernels(), {}, 1, expected);
  check(quantized ? y == expected : near(y, expected, 1e-6), kernels.name, "conv2d of many outputs");
}

// Decoded weights of one panel and their products with the windows of some pixels.
void test_tile_byte(const Kernels& kernels, bool extreme) {
  const int width = kernels.tile_width_byte, rows = static_cast<int>(pick(1, width));
  const int count = static_cast<int>(pick(1, kernels.tile_pixels_byte));
  std::vector<TileRun> runs(pick(1, 9));
  int64_t quads = 0;
  for (TileRun& run : runs) {
    run = {static_cast<int32_t>(pick(0, 200)), static_cast<int32_t>(4 * pick(1, 300))};
    quads += run.length / 4;
  }
  std::vector<uint8_t> codes(quads * rows);
  for (uint8_t& byte : codes) {
    const int plus = extreme ? 15 : static_cast<int>(pick(0, 15));
    byte = static_cast<uint8_t>(plus | (~plus & pick(0, 15)) << 4);
  }
  std::vector<int32_t> places(quads);
  for (int64_t q = 0; q < quads; q++) places[q] = static_cast<int32_t>(quads - 1 - q);
  std::vector<uint8_t> memory(quads * 8 * width + 64);
  uint8_t* weights = memory.data() + (-reinterpret_cast<uintptr_t>(memory.data()) & 63);
  kernels.decode_byte({codes.data(), places.data(), rows, quads, rows, nullptr, nullptr, weights});

  std::vector<int8_t> source(1500 + 10 * count + kTileSlack);
  for (int8_t& value : source) value = static_cast<int8_t>(extreme ? -127 : pick(-127, 127));
  std::vector<const void*> pixels(count);
  for (int p = 0; p < count; p++) pixels[p] = source.data() + 10 * p;
  std::vector<int32_t> sums(count * 2 * width, 5);
  const bool first = pick(0, 1) == 1;
  kernels.tile_byte({pixels.data(), count, runs.data(), static_cast<int64_t>(runs.size()), weights,
                     sums.data(), first});

  bool good = true;
  for (int p = 0; p < count; p++)
    for (int r = 0; r < width; r++) {
      int32_t expected[2] = {first ? 0 : 5, first ? 0 : 5};
      int64_t k = 0;
      for (const TileRun& run : runs)
        for (int64_t j = 0; j < run.length && r < rows; j++, k++)
          for (int s = 0; s < 2; s++)
            expected[s] += (codes[places[k / 4] * rows + r] >> (4 * s + k % 4) & 1) *
                           static_cast<const int8_t*>(pixels[p])[run.offset + j];
      for (int s = 0; s < 2; s++) good &= sums[(2 * p + s) * width + r] == expected[s];
    }
  check(good, kernels.name, "tile_byte");
}

// Sums at the limits: all weights +1 and the largest activations, at the longest panel.
void test_extremes(const Kernels& kernels) {
  const int64_t rows = 70, columns = 4 * kPanelShortGroups + 4;
  for (int sign : {-1, 1}) {
    std::vector<int8_t> codes(rows * columns, static_cast<int8_t>(sign));
    const Layout layout = best_layout(kernels, rows, columns, true);
    const std::vector<uint8_t> packed = packed_as(layout, codes, rows, columns);
    const std::vector<float> ones(rows, 1.0f), x(columns, 2.54f);
    std::vector<float> y(rows);
    const Weights w{packed.data(), rows, columns, ones.data(), ones.data(), nullptr, false,
                    true,          layout};
    linear(kernels, w, x.data(), 1, nullptr, y.data(), 1);
    const float expected = 2.54f / 127.0f * (sign * 127.0f * static_cast<float>(columns));
    for (float value : y) check(value == expected, kernels.name, "the sum of extremes");
  }
}

void test_small_parts(const Kernels& kernels) {
  const int64_t count = pick(1, 300);
  std::vector<float> x = floats(count);
  check(kernels.largest(x.data(), count) == portable_kernels()->largest(x.data(), count),
        kernels.name, "largest");
  std::vector<int16_t> a(count), b(count);
  kernels.quantize(x.data(), count, 20.5f, a.data());
  portable_kernels()->quantize(x.data(), count, 20.5f, b.data());
  check(a == b, kernels.name, "quantize");
  x[pick(0, count - 1)] = NAN;
  check(std::isnan(kernels.largest(x.data(), count)), kernels.name, "largest of NaN");
  const int64_t rows = pick(1, 9);
  const std::vector<float> weights = floats(rows * count), input = floats(count);
  std::vector<float> y(rows), expected(rows);
  kernels.dense_rows(input.data(), weights.data(), rows, count, y.data());
  portable_kernels()->dense_rows(input.data(), weights.data(), rows, count, expected.data());
  for (int64_t r = 0; r < rows; r++)
    check(std::fabs(y[r] - expected[r]) < 1e-3f, kernels.name, "dense_rows");
}

// A packed matrix, in the layout that the kernels like best and in the portable one.
struct Matrix {
  std::vector<uint8_t> best, portable;
  std::vector<float> scale_pos, scale_neg, bias;
  Weights ours, theirs;

  Matrix(const Kernels& kernels, int64_t rows, int64_t columns, bool quantized)
      : scale_pos(rows, 0.2f), scale_neg(rows, 0.15f), bias(floats(rows)) {
    const std::vector<int8_t> codes = random_codes(rows * columns);
    const Layout layout = best_layout(kernels, rows, columns, quantized);
    best = packed_as(layout, codes, rows, columns);
    portable = packed_as(Layout::kNibbles, codes, rows, columns);
    ours = {best.data(), rows,        columns, scale_pos.data(), scale_neg.data(),
            bias.data(), false, quantized};
    ours.layout = layout;
    theirs = ours;
    theirs.codes = portable.data();
    theirs.layout = Layout::kNibbles;
  }
};

// Rounding may turn a quantized activation into its neighbour, and with it some outputs.
double step_tolerance(bool quantized) { return quantized ? 2e-2 : 1e-4; }

void test_decoder_step(const Kernels& kernels, bool quantized) {
  const int64_t batch = pick(1, 2), kv_heads = pick(1, 2), group = pick(1, 3);
  const int64_t head_dim = 2 * pick(1, 40), width = pick(10, 200), wide = pick(10, 200);
  const int64_t capacity = pick(1, 50), position = pick(0, capacity - 1);
  const int64_t heads = kv_heads * group, query = heads * head_dim, key = kv_heads * head_dim;
  std::vector<Matrix> matrices;
  for (int layer = 0; layer < 2; layer++) {
    for (int64_t rows : {query, key, key}) matrices.emplace_back(kernels, rows, width, quantized);
    matrices.emplace_back(kernels, width, query, quantized);
    for (int i = 0; i < 2; i++) matrices.emplace_back(kernels, wide, width, quantized);
    matrices.emplace_back(kernels, width, wide, quantized);
  }
  const std::vector<float> norm = floats(width), angles = floats(head_dim), x = floats(batch * width);
  std::vector<float> cosine(head_dim), sine(head_dim);
  for (int64_t i = 0; i < head_dim; i++) {
    cosine[i] = std::cos(angles[i]);
    sine[i] = std::sin(angles[i]);
  }
  const int64_t held = batch * kv_heads * capacity * head_dim;
  const std::vector<float> cache = floats(4 * held);
  std::vector<float> results[2], caches[2];
  for (int own = 0; own < 2; own++) {
    std::vector<DecoderLayer> layers(2);
    caches[own] = cache;
    for (int i = 0; i < 2; i++) {
      auto weights = [&](int m) { return own ? matrices[7 * i + m].ours : matrices[7 * i + m].theirs; };
      float* memory = caches[own].data() + 2 * i * held;
      layers[i] = {weights(0), weights(1), weights(2), weights(3),  weights(4), weights(5), weights(6),
                   norm.data(), norm.data(), 1e-6, 1e-5, memory, memory + held};
    }
    DecodingStep step{};
    step.batch = batch, step.heads = heads, step.kv_heads = kv_heads, step.head_dim = head_dim;
    step.capacity = capacity, step.position = position;
    step.cosine = cosine.data(), step.sine = sine.data();
    results[own] = x;
    check(decoder_step(own ? kernels : *portable_kernels(), layers, step, results[own].data(), 1),
          kernels.name, "finiteness of decoder_step");
  }
  check(near(results[1], results[0], step_tolerance(quantized)), kernels.name, "decoder_step");
  check(near(caches[1], caches[0], step_tolerance(quantized)), kernels.name, "decoder_step's cache");
}

void test_recurrent_step(const Kernels& kernels, bool quantized, int gates) {
  const int64_t batch = pick(1, 3), hidden = pick(1, 150), inputs = pick(1, 150);
  std::vector<Matrix> matrices;
  for (int layer = 0; layer < 2; layer++) {
    matrices.emplace_back(kernels, gates * hidden, layer ? hidden : inputs, quantized);
    matrices.emplace_back(kernels, gates * hidden, hidden, quantized);
  }
  const int64_t state = batch * hidden;
  const std::vector<float> x = floats(batch * inputs), h = floats(2 * state), c = floats(2 * state);
  std::vector<float> cells[2], results[2];
  for (int own = 0; own < 2; own++) {
    std::vector<RecurrentLayer> layers;
    for (int i = 0; i < 2; i++)
      layers.push_back(own ? RecurrentLayer{matrices[2 * i].ours, matrices[2 * i + 1].ours}
                           : RecurrentLayer{matrices[2 * i].theirs, matrices[2 * i + 1].theirs});
    cells[own] = c;
    results[own].resize(2 * state);
    const RecurrentStep step{batch,    hidden, x.data(),
                             h.data(), gates == 4 ? cells[own].data() : nullptr,
                             results[own].data()};
    check(recurrent_step(own ? kernels : *portable_kernels(), layers, step, 1), kernels.name,
          "finiteness of recurrent_step");
  }
  check(near(results[1], results[0], step_tolerance(quantized)), kernels.name, "recurrent_step");
  check(near(cells[1], cells[0], step_tolerance(quantized)), kernels.name, "recurrent_step's cells");
}

}  // namespace

int main(int argc, char** argv) {
  const Kernels* all[] = {avx512_kernels(),       avx512_plain_kernels(), avx2_kernels(),
                          avx_vnni_kernels(),     neon_kernels(),         neon_dotprod_kernels(),
                          portable_kernels()};
  for (int i = 1; i < argc; i++) {
    const Kernels* kernels = nullptr;
    for (const Kernels* candidate : all)
      if (candidate && std::strcmp(candidate->name, argv[i]) == 0) kernels = candidate;
    if (!kernels) {
      std::printf("%s: not in this build\n", argv[i]);
      return 2;
    }
    for (int round = 0; round < 40; round++) {
      test_small_parts(*kernels);
      test_layouts();
      test_tile_byte(*kernels, round == 0);
      for (bool quantized : {false, true}) {
        test_linear(*kernels, quantized);
        test_conv2d(*kernels, quantized);
        test_decoder_step(*kernels, quantized);
        for (int gates : {3, 4}) test_recurrent_step(*kernels, quantized, gates);
        if (round % 2 == 0 || !kernels->triple_sums) test_wide_conv2d(*kernels, *kernels, quantized);
        if (avx512_kernels() && round % 10 == 0)
          test_wide_conv2d(*kernels, *avx512_kernels(), quantized);
      }
    }
    test_extremes(*kernels);
    std::printf("%s: %s\n", kernels->name, failures ? "FAILED" : "agrees with portable");
  }
  return failures ? 1 : 0;
}
