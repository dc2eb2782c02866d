// The Python module: addresses and sizes in, nothing of torch here. Callers check every argument.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>
#include <vector>

#include "chain.h"
#include "layout.h"
#include "operators.h"
#include "parallel.h"

namespace nb = nanobind;

namespace {

std::atomic<const ttq::Kernels*> chosen{nullptr};

template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

std::vector<const ttq::Kernels*> usable() {
  std::vector<const ttq::Kernels*> found(8);
  found.resize(ttq::usable_kernels(found.data(), 8));
  return found;
}

std::vector<std::string> available() {
  std::vector<std::string> names;
  for (const ttq::Kernels* kernels : usable()) names.emplace_back(kernels->name);
  return names;
}

std::vector<std::string> known() {
  return {ttq::kKnownNames, ttq::kKnownNames + ttq::kKnownCount};
}

void use(const std::string& name) {
  for (const ttq::Kernels* kernels : usable())
    if (name == kernels->name) {
      chosen = kernels;
      return;
    }
  throw std::invalid_argument("no such instruction set here: " + name);
}

const ttq::Kernels& kernels() { return *chosen.load(std::memory_order_relaxed); }

ttq::Weights weights(uintptr_t codes, int64_t rows, int64_t columns, uintptr_t scale_pos,
                     uintptr_t scale_neg, uintptr_t bias, bool relu, bool quantized) {
  return {pointer<const uint8_t>(codes),
          rows,
          columns,
          pointer<const float>(scale_pos),
          pointer<const float>(scale_neg),
          pointer<const float>(bias),
          relu,
          quantized};
}

// `bytes`: the length of the packed matrix, which tells its layout.
ttq::ReadableWeights readable(ttq::Weights w, int64_t bytes, int threads) {
  w.layout = ttq::layout_of(bytes, w.rows, w.columns);
  return {kernels(), w, threads};
}

bool linear(uintptr_t x, int64_t count, uintptr_t codes, int64_t bytes, int64_t rows,
            int64_t columns, uintptr_t scale_pos, uintptr_t scale_neg, uintptr_t bias,
            uintptr_t residual, bool relu, bool quantized, uintptr_t y, int threads) {
  const auto w = readable(
      weights(codes, rows, columns, scale_pos, scale_neg, bias, relu, quantized), bytes, threads);
  return ttq::linear(kernels(), *w, pointer<const float>(x), count,
                     pointer<const float>(residual), pointer<float>(y), threads);
}

// Eight numbers for each matrix: address and length of its codes, rows, addresses of both scales and
// the bias, whether ReLU follows, and the address of its output.
bool linear_many(uintptr_t x, int64_t count, int64_t columns,
                 const std::vector<uintptr_t>& numbers, bool quantized, int threads) {
  constexpr size_t kEach = 8;
  if (numbers.size() % kEach) throw std::invalid_argument("linear_many: 8 numbers a matrix expected");
  std::vector<ttq::ReadableWeights> readable_weights;
  std::vector<ttq::Weights> w;
  std::vector<float*> ys;
  const size_t matrices = numbers.size() / kEach;
  readable_weights.reserve(matrices);
  for (size_t i = 0; i < matrices; i++) {
    const uintptr_t* v = numbers.data() + kEach * i;
    const int64_t rows = static_cast<int64_t>(v[2]);
    readable_weights.push_back(readable(
        weights(v[0], rows, columns, v[3], v[4], v[5], v[6] != 0, quantized),
        static_cast<int64_t>(v[1]), threads));
    w.push_back(*readable_weights.back());
    ys.push_back(pointer<float>(v[7]));
  }
  return ttq::linear_many(kernels(), w.data(), static_cast<int>(matrices), pointer<const float>(x),
                          count, ys.data(), threads);
}

// `columns`: of the matrix as nibbles.
bool conv2d(uintptr_t x, const std::vector<int64_t>& sizes, uintptr_t codes, int64_t bytes,
            int64_t columns,
            uintptr_t scale_pos, uintptr_t scale_neg, uintptr_t bias, uintptr_t residual,
            bool residual_channels_last, bool shared_tables, bool relu, bool quantized, uintptr_t y,
            bool channels_last, int threads) {
  if (sizes.size() != 20) throw std::invalid_argument("conv2d: 20 sizes expected");
  const auto& v = sizes;
  const ttq::Conv2dShape shape{v[0],  v[1],  v[2],  v[3],  v[4],  v[5],  v[6],
                               v[7],  v[8],  v[9],  v[10], v[11], v[12], v[13],
                               v[14], v[15], v[16], v[17], v[18], v[19], shared_tables,
                               channels_last, residual_channels_last};
  ttq::Weights w =
      weights(codes, shape.out_channels, columns, scale_pos, scale_neg, bias, relu, quantized);
  w.window = ttq::window_columns_of(bytes, {w.rows, shape.channels / shape.groups,
                                            shape.kernel_height, shape.kernel_width, columns});
  w.layout = w.window.layout;
  const ttq::ReadableWeights readable(kernels(), w, shape, threads);
  return ttq::conv2d(kernels(), *readable, shape, pointer<const float>(x),
                     pointer<const float>(residual), pointer<float>(y), threads);
}

// Bytes that the kernels in force would have a linear layer's matrix take.
int64_t linear_bytes(int64_t rows, int64_t columns, bool quantized) {
  return ttq::packed_bytes(ttq::best_layout(kernels(), rows, columns, quantized), rows, columns);
}

// The layout of a convolution of `bytes`, or with 0 the one that the kernels in force would give it:
// bytes, columns, and of wide layouts the columns of a run and of a pixel (else 0).
std::vector<int64_t> window_columns(int64_t bytes, int64_t rows, int64_t channels, int64_t height,
                                    int64_t width, int64_t nibble_columns, bool quantized) {
  const ttq::WindowShape shape{rows, channels, height, width, nibble_columns};
  const ttq::WindowColumns found = bytes
                                       ? ttq::window_columns_of(bytes, shape)
                                       : ttq::best_window_columns(kernels(), shape, quantized);
  const bool wide = found.layout != ttq::Layout::kNibbles;
  return {ttq::packed_bytes(found, shape), wide ? found.columns() : nibble_columns,
          found.run_columns, found.pixel_columns};
}

void pack(uintptr_t codes, int64_t rows, int64_t columns, uintptr_t packed, int64_t bytes,
          int threads) {
  ttq::pack(ttq::layout_of(bytes, rows, columns), pointer<const int8_t>(codes), rows, columns,
            pointer<uint8_t>(packed), threads);
}

void unpack(uintptr_t packed, int64_t bytes, int64_t rows, int64_t columns, uintptr_t codes,
            int threads) {
  ttq::unpack(ttq::layout_of(bytes, rows, columns), pointer<const uint8_t>(packed), rows, columns,
              pointer<int8_t>(codes), threads);
}

bool recurrent(uintptr_t codes, int64_t bytes, int64_t rows, uintptr_t scale_pos, uintptr_t scale_neg,
               uintptr_t bias, bool quantized, int64_t steps, int64_t batch, int64_t hidden,
               bool backward, uintptr_t inputs, uintptr_t h, uintptr_t c, uintptr_t outputs,
               int threads) {
  const auto w = readable(
      weights(codes, rows, hidden, scale_pos, scale_neg, bias, false, quantized), bytes, threads);
  return ttq::recurrent(
      kernels(), *w,
      {steps, batch, hidden, backward, pointer<const float>(inputs), pointer<const float>(h),
       pointer<float>(c), pointer<float>(outputs)},
      threads);
}

void attend_step(uintptr_t q, uintptr_t k, uintptr_t v, uintptr_t cosine, uintptr_t sine,
                 uintptr_t keys, uintptr_t values, int64_t batch, int64_t heads, int64_t kv_heads,
                 int64_t head_dim, int64_t capacity, int64_t position, uintptr_t out, int threads) {
  ttq::attend_step(
      kernels(),
      {batch, heads, kv_heads, head_dim, capacity, position, pointer<const float>(q),
       pointer<const float>(k), pointer<const float>(v), pointer<const float>(cosine),
       pointer<const float>(sine), pointer<float>(keys), pointer<float>(values),
       pointer<float>(out)},
      threads);
}

// Packed matrices from six numbers each: address and length of the codes, rows, addresses of both
// scales and the bias; or as copies that the kernels can read.
class Matrices {
 public:
  static constexpr size_t kEach = 6;

  Matrices(bool quantized, int threads, size_t most) : quantized_(quantized), threads_(threads) {
    copies_.reserve(most);
  }

  ttq::Weights read(const uint64_t* v, int64_t columns) {
    copies_.push_back(readable(weights(v[0], static_cast<int64_t>(v[2]), columns, v[3], v[4], v[5],
                                       false, quantized_),
                               static_cast<int64_t>(v[1]), threads_));
    return *copies_.back();
  }

 private:
  bool quantized_;
  int threads_;
  std::vector<ttq::ReadableWeights> copies_;
};

// `numbers`: for each layer the seven matrices q, k, v, o, gate, up, down, then the addresses of both
// norms' weights, keys and values. `epsilons`: two of each layer, and the last norm's.
bool decoder_step(uintptr_t x, uintptr_t numbers, uintptr_t epsilons, int64_t count,
                  uintptr_t last_norm, bool quantized, uintptr_t cosine, uintptr_t sine,
                  int64_t batch, int64_t width, int64_t heads, int64_t kv_heads, int64_t head_dim,
                  int64_t wide, int64_t capacity, int64_t position, int threads) {
  constexpr size_t kMatrices = 7;
  Matrices matrices(quantized, threads, kMatrices * count);
  std::vector<ttq::DecoderLayer> layers(count);
  const uint64_t* v = pointer<const uint64_t>(numbers);
  const double* epsilon = pointer<const double>(epsilons);
  for (ttq::DecoderLayer& layer : layers) {
    ttq::Weights* all[kMatrices] = {&layer.q,    &layer.k,  &layer.v,   &layer.o,
                                    &layer.gate, &layer.up, &layer.down};
    const int64_t columns[kMatrices] = {width, width, width, heads * head_dim, width, width, wide};
    for (size_t m = 0; m < kMatrices; m++, v += Matrices::kEach)
      *all[m] = matrices.read(v, columns[m]);
    layer.attention_norm = pointer<const float>(*v++);
    layer.feed_forward_norm = pointer<const float>(*v++);
    layer.keys = pointer<float>(*v++);
    layer.values = pointer<float>(*v++);
    layer.attention_epsilon = *epsilon++;
    layer.feed_forward_epsilon = *epsilon++;
  }
  ttq::DecodingStep step{};
  step.batch = batch, step.heads = heads, step.kv_heads = kv_heads, step.head_dim = head_dim;
  step.capacity = capacity, step.position = position;
  step.cosine = pointer<const float>(cosine), step.sine = pointer<const float>(sine);
  float* values = pointer<float>(x);
  if (!ttq::decoder_step(kernels(), layers, step, values, threads)) return false;
  for (int64_t b = 0; b < batch; b++)
    kernels().rms_norm(values + b * width, pointer<const float>(last_norm), width, *epsilon,
                       values + b * width);
  return true;
}

// `numbers`: for each layer the input and the hidden matrix.
bool recurrent_step(uintptr_t numbers, int64_t count, bool quantized, int64_t batch, int64_t inputs,
                    int64_t hidden, uintptr_t x, uintptr_t h, uintptr_t c, uintptr_t out,
                    int threads) {
  Matrices matrices(quantized, threads, 2 * count);
  std::vector<ttq::RecurrentLayer> layers;
  const uint64_t* v = pointer<const uint64_t>(numbers);
  for (int64_t i = 0; i < count; i++, v += 2 * Matrices::kEach) {
    const ttq::Weights input = matrices.read(v, i ? hidden : inputs);
    layers.push_back({input, matrices.read(v + Matrices::kEach, hidden)});
  }
  return ttq::recurrent_step(kernels(), layers,
                             {batch, hidden, pointer<const float>(x), pointer<const float>(h),
                              pointer<float>(c), pointer<float>(out)},
                             threads);
}

// Runs of items, one for each thread where there are enough of them to share.
template <class Body>
void in_runs(int64_t items, int64_t item_values, int threads, const Body& body) {
  constexpr int64_t kWorthAThread = 16384;  // values
  const int64_t parts = std::min<int64_t>(threads, items * item_values / kWorthAThread + 1);
  ttq::parallel_for(parts, threads, [&](int64_t part) {
    body(items * part / parts, items * (part + 1) / parts);
  });
}

void rms_norm(uintptr_t x, uintptr_t weight, int64_t rows, int64_t columns, double epsilon,
              uintptr_t y, int threads) {
  in_runs(rows, columns, threads, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++)
      kernels().rms_norm(pointer<const float>(x) + r * columns, pointer<const float>(weight),
                         columns, epsilon, pointer<float>(y) + r * columns);
  });
}

void swiglu(uintptr_t gate, uintptr_t up, int64_t count, uintptr_t y, int threads) {
  in_runs(count, 1, threads, [&](int64_t begin, int64_t end) {
    kernels().swiglu(pointer<const float>(gate) + begin, pointer<const float>(up) + begin,
                     end - begin, pointer<float>(y) + begin);
  });
}

using ChainSteps =
    std::vector<std::tuple<int, int, int, bool, std::vector<int64_t>, std::vector<double>>>;

void make_chain(ttq::Chain* self, int inputs, const ChainSteps& given,
                const std::vector<int>& outputs) {
  std::vector<ttq::Step> steps;
  for (const auto& [kind, input, other, relu, sizes, numbers] : given)
    steps.push_back({static_cast<ttq::StepKind>(kind), input, other, relu, sizes, numbers});
  new (self) ttq::Chain(inputs, std::move(steps), outputs);
}

// Each input: address, rank (2 or 4), sizes and strides as torch has them.
std::vector<ttq::ChainInput> chain_inputs(const std::vector<std::vector<int64_t>>& given) {
  std::vector<ttq::ChainInput> inputs;
  for (const auto& v : given) {
    if (v.size() == 5)
      inputs.push_back({pointer<const float>(v[0]), v[1], true, v[2], 1, 1, v[3], v[4], 0, 0});
    else if (v.size() == 9)
      inputs.push_back(
          {pointer<const float>(v[0]), v[1], false, v[2], v[3], v[4], v[5], v[6], v[7], v[8]});
    else
      throw std::invalid_argument("chain: inputs have two or four dimensions");
  }
  return inputs;
}

std::vector<std::vector<int64_t>> chain_shapes(const ttq::Chain& chain,
                                               const std::vector<std::vector<int64_t>>& inputs) {
  return chain.output_shapes(kernels(), chain_inputs(inputs));
}

bool run_chain(const ttq::Chain& chain, const std::vector<std::vector<int64_t>>& inputs,
               const std::vector<int64_t>& tensors, const std::vector<uintptr_t>& outputs,
               bool channels_last, int threads) {
  std::vector<float*> places;
  for (uintptr_t output : outputs) places.push_back(pointer<float>(output));
  return chain.run(kernels(), chain_inputs(inputs), tensors, places, channels_last, threads);
}

void dense_gemv(uintptr_t x, uintptr_t w, int64_t rows, int64_t columns, uintptr_t y,
                int threads) {
  ttq::parallel_for(threads, threads, [&](int64_t part) {
    const int64_t begin = rows * part / threads, end = rows * (part + 1) / threads;
    kernels().dense_rows(pointer<const float>(x), pointer<const float>(w) + begin * columns,
                         end - begin, columns, pointer<float>(y) + begin);
  });
}

// Reads memory once, for the bandwidth of the roofline; returns a sum that depends on all of it.
uint64_t read_memory(uintptr_t address, int64_t bytes, int threads) {
  std::atomic<uint64_t> total{0};
  const int64_t words = bytes / 8;
  ttq::parallel_for(threads, threads, [&](int64_t part) {
    const uint64_t* data = pointer<const uint64_t>(address);
    uint64_t sum = 0;
    for (int64_t i = words * part / threads; i < words * (part + 1) / threads; i++) sum += data[i];
    total += sum;
  });
  return total;
}

}  // namespace

NB_MODULE(_native, m) {
  using Unlocked = nb::call_guard<nb::gil_scoped_release>;
  m.def("available", &available);
  m.def("known", &known);
  m.def("use", &use);
  m.def("active", [] { return std::string(kernels().name); });
  m.def("linear_bytes", &linear_bytes);
  m.def("window_columns", &window_columns);
  m.def("packed_bytes", [](int layout, int64_t rows, int64_t columns) {
    return ttq::packed_bytes(static_cast<ttq::Layout>(layout), rows, columns);
  });
  m.def("pack", &pack, Unlocked());
  m.def("unpack", &unpack, Unlocked());
  m.def("linear", &linear, Unlocked());
  m.def("linear_many", &linear_many, Unlocked());
  m.def("conv2d", &conv2d, Unlocked());
  m.def("recurrent", &recurrent, Unlocked());
  m.def("attend_step", &attend_step, Unlocked());
  m.def("decoder_step", &decoder_step, Unlocked());
  m.def("recurrent_step", &recurrent_step, Unlocked());
  m.def("rms_norm", &rms_norm, Unlocked());
  m.def("swiglu", &swiglu, Unlocked());
  nb::class_<ttq::Chain>(m, "Chain")
      .def("__init__", &make_chain)
      .def("shapes", &chain_shapes)
      .def("run", &run_chain, Unlocked());
  m.def("dense_gemv", &dense_gemv, Unlocked());
  m.def("read_memory", &read_memory, Unlocked());
}
