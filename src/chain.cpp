#include "chain.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <stdexcept>

#include "chain_plan.h"
#include "chain_steps.h"
#include "conv2d_wide.h"
#include "layout.h"
#include "parallel.h"

namespace ttq {
namespace {

// Activations of the images that go through a run of layers together.
constexpr int64_t kBlockBytes = 1 << 20;
constexpr int64_t kTasksPerThread = 4;
constexpr size_t kPlansKept = 8;

int64_t tensors_of(StepKind kind) {
  switch (kind) {
    case StepKind::kConvolution:
    case StepKind::kLinear:
      return 6;
    case StepKind::kDenseConvolution:
    case StepKind::kDenseLinear:
      return 2;
    case StepKind::kNorm:
      return 4;
    default:
      return 0;
  }
}

template <class T>
T* address(int64_t value) {
  return reinterpret_cast<T*>(static_cast<uintptr_t>(value));
}

class ChainRun {
 public:
  ChainRun(const Kernels& kernels, const ChainPlan& plan, const std::vector<ChainInput>& inputs,
           const std::vector<int64_t>& tensors, const std::vector<int>& output_values,
           const std::vector<float*>& outputs, bool channels_last, int threads)
      : kernels_(kernels),
        plan_(plan),
        inputs_(inputs),
        tensors_(tensors),
        output_values_(output_values),
        outputs_(outputs),
        channels_last_(channels_last),
        threads_(threads),
        images_(inputs[0].images) {}

  bool run() {
    shared_ = scratch_array<float>(Scratch::kShared, plan_.shared_floats() * images_);
    for (const Phase& phase : plan_.phases()) {
      for (int i : phase.steps)
        if (phase.whole_batch && !linear(plan_.steps()[i])) return false;
      if (!phase.whole_batch && !blocks(phase)) return false;
    }
    for (size_t i = 0; i < outputs_.size(); i++) export_output(i);
    return true;
  }

 private:
  // Some images of a phase, on `threads` threads.
  struct Block {
    int64_t first, images, most;
    float* local;
    int threads;
  };

  bool blocks(const Phase& phase) const {
    const int64_t bytes = std::max<int64_t>(1, phase.floats) * static_cast<int64_t>(sizeof(float));
    const int64_t fitting = std::max<int64_t>(1, kBlockBytes / bytes);
    if (threads_ > 1 && images_ < 2 * threads_) {
      const int64_t most = std::min(fitting, images_);
      float* local = scratch_array<float>(Scratch::kLocal, phase.floats * most);
      for (int64_t first = 0; first < images_; first += most)
        if (!block(phase, {first, std::min(most, images_ - first), most, local, threads_}))
          return false;
      return true;
    }
    // Each thread takes some images through all layers.
    const int64_t tasks = std::max(divide_up(images_, fitting),
                                   threads_ > 1 ? std::min(images_, kTasksPerThread * threads_) : 1);
    const int64_t most = divide_up(images_, tasks);
    std::atomic<bool> good{true};
    parallel_for(tasks, threads_, [&](int64_t task) {
      const int64_t first = images_ * task / tasks, end = images_ * (task + 1) / tasks;
      if (!good) return;
      float* local = scratch_array<float>(Scratch::kLocal, phase.floats * most);
      if (!block(phase, {first, end - first, most, local, 1})) good = false;
    });
    return good;
  }

  bool block(const Phase& phase, const Block& block) const {
    for (int i : phase.steps) {
      const PlannedStep& planned = plan_.steps()[i];
      if (planned.convolution) {
        if (!convolve(planned, block)) return false;
        continue;
      }
      for (int64_t image = 0; image < block.images; image++) simple(planned, block, image);
    }
    return true;
  }

  // Where image `image` of a block begins, its border included.
  float* place(const Value& value, const Block& block, int64_t image) const {
    return value.shared ? shared_ + value.offset * images_ + (block.first + image) * value.floats()
                        : block.local + value.offset * block.most + image * value.floats();
  }

  Image image_of(int number, const Block& block, int64_t image) const {
    const Value& value = plan_.values()[number];
    const int64_t pixel = value.shape.channels, row = value.columns() * pixel;
    return {place(value, block, image) + value.top * row + value.left * pixel, value.shape, row,
            pixel};
  }

  ImageStrides strides_of(int number) const {
    const Value& value = plan_.values()[number];
    return {value.floats(), value.columns() * value.shape.channels, value.shape.channels, 1};
  }

  ImageStrides output_strides(const ValueShape& s) const {
    const int64_t pixels = s.height * s.width;
    if (channels_last_ || s.flat) return {pixels * s.channels, s.width * s.channels, s.channels, 1};
    return {pixels * s.channels, s.width, 1, pixels};
  }

  void clear_border(int number, const Block& block, int64_t image) const {
    const Value& value = plan_.values()[number];
    if (value.top == 0 && value.left == 0) return;
    float* begin = place(value, block, image);
    const int64_t row = value.columns() * value.shape.channels;
    const int64_t left = value.left * value.shape.channels;
    const int64_t rows = value.shape.height + 2 * value.top;
    std::fill_n(begin, value.top * row + left, 0.0f);
    // The right end of a row and the left one of the next are neighbours.
    for (int64_t y = value.top; y + 1 < value.top + value.shape.height; y++)
      std::fill_n(begin + (y + 1) * row - left, 2 * left, 0.0f);
    float* last = begin + (value.top + value.shape.height) * row - left;
    std::fill(last, begin + rows * row, 0.0f);
  }

  const int64_t* tensors(const PlannedStep& planned) const {
    return tensors_.data() + planned.step.first_tensor;
  }

  Weights weights(const PlannedStep& planned) const {
    const Step& step = planned.step;
    const int64_t* t = tensors(planned);
    Weights w{};
    w.rows = step.sizes[0];
    w.relu = step.relu;
    if (step.kind == StepKind::kDenseConvolution) {
      w.columns = step.sizes[11];
      w.dense = address<const float>(t[0]);
      w.bias = address<const float>(t[1]);
      return w;
    }
    const bool is_linear = step.kind == StepKind::kLinear;
    w.columns = step.sizes[is_linear ? 1 : 11];
    w.quantized = step.sizes[is_linear ? 2 : 13] != 0;
    w.codes = address<const uint8_t>(t[0]);
    w.scale_pos = address<const float>(t[1]);
    w.scale_neg = address<const float>(t[2]);
    w.bias = address<const float>(t[3]);
    w.relu = t[4] != 0;
    if (is_linear) {
      w.layout = layout_of(t[5], w.rows, w.columns);
    } else {
      w.window = window_columns_of(
          t[5], {w.rows, step.sizes[10], step.sizes[1], step.sizes[2], w.columns});
      w.layout = w.window.layout;
    }
    return w;
  }

  bool convolve(const PlannedStep& planned, const Block& block) const;
  bool linear(const PlannedStep& planned) const;
  void simple(const PlannedStep& planned, const Block& block, int64_t image) const;
  void import_input(const PlannedStep& planned, const Block& block, int64_t image) const;
  void export_output(size_t number) const;

  const Kernels& kernels_;
  const ChainPlan& plan_;
  const std::vector<ChainInput>& inputs_;
  const std::vector<int64_t>& tensors_;
  const std::vector<int>& output_values_;
  const std::vector<float*>& outputs_;
  bool channels_last_;
  int threads_;
  int64_t images_;
  float* shared_ = nullptr;
};

bool ChainRun::convolve(const PlannedStep& planned, const Block& block) const {
  const Convolution& convolution = *planned.convolution;
  const Step& step = planned.step;
  const ReadableWeights readable(kernels_, weights(planned), convolution.shape(), block.threads);
  const Weights& w = *readable;
  const Value& in = plan_.values()[step.input];
  float* scales = scratch_array<float>(Scratch::kQuantized, 2 * block.images);
  float* multipliers = scales + block.images;
  if (!w.dense) {
    std::atomic<bool> good{true};
    parallel_for(block.images, block.threads, [&](int64_t i) {
      const float most = kernels_.largest(place(in, block, i), in.floats());
      if (!w.quantized && !(most <= kLargestActivation)) good = false;
      const RowScale scale = row_scale(most);
      scales[i] = scale.scale;
      multipliers[i] = scale.multiplier;
    });
    if (!good) return false;
  }
  const ImageStrides strides = strides_of(step.input);
  const Image first = image_of(step.input, block, 0);
  ConvolutionJob job{};
  job.images = block.images;
  job.scales = scales;
  if (w.quantized && w.layout == Layout::kNibbles) {
    const int64_t bytes = convolution.source_bytes(), rows = convolution.source_rows();
    char* source = scratch_array<char>(Scratch::kSource, block.images * bytes + 4 * kTileSlack);
    const int64_t parts = block.threads > 1 ? std::min(rows, kTasksPerThread * block.threads) : 1;
    parallel_for(block.images * parts, block.threads, [&](int64_t task) {
      const int64_t i = task / parts, part = task % parts;
      convolution.fill(first.data + i * strides.image, multipliers[i], rows * part / parts,
                       rows * (part + 1) / parts, source + i * bytes);
    });
    job.source = source;
    job.source_stride = convolution.source_elements();
  } else {
    const bool border = convolution.shape().padding_height + convolution.shape().padding_width == 0;
    job.source = border ? first.data - step.sizes[5] * strides.row - step.sizes[6] * strides.pixel
                        : first.data;
    job.source_stride = strides.image;
  }
  if (step.other >= 0) {
    job.residual = image_of(step.other, block, 0).data;
    job.residual_strides = strides_of(step.other);
  }
  const Value& out = plan_.values()[planned.result];
  if (out.direct >= 0) {
    job.y_strides = output_strides(out.shape);
    job.y = outputs_[out.direct] + block.first * job.y_strides.image;
  } else {
    for (int64_t i = 0; i < block.images; i++) clear_border(planned.result, block, i);
    job.y_strides = strides_of(planned.result);
    job.y = image_of(planned.result, block, 0).data;
  }
  if (w.layout == Layout::kNibbles) {
    convolution.run(w, job, block.threads);
    return true;
  }
  std::vector<RowScale> row_scales(block.images);
  for (int64_t i = 0; i < block.images; i++) row_scales[i] = {multipliers[i], scales[i]};
  Conv2dShape shape = convolution.shape();
  shape.images = block.images;
  wide_conv2d(kernels_, w, shape, static_cast<const float*>(job.source), row_scales.data(),
              job.residual, job.residual_strides, job.y, job.y_strides, block.threads);
  return true;
}

bool ChainRun::linear(const PlannedStep& planned) const {
  const Step& step = planned.step;
  const auto rows_of = [&](int number) {
    const Value& value = plan_.values()[number];
    return value.direct >= 0 ? outputs_[value.direct] : shared_ + value.offset * images_;
  };
  const float* x = rows_of(step.input);
  const float* residual = step.other >= 0 ? rows_of(step.other) : nullptr;
  float* y = rows_of(planned.result);
  if (step.kind == StepKind::kLinear) {
    const ReadableWeights w(kernels_, weights(planned), threads_);
    return ttq::linear(kernels_, *w, x, images_, residual, y, threads_);
  }
  const int64_t out = step.sizes[0], in = step.sizes[1];
  const float* weight = address<const float>(tensors(planned)[0]);
  const float* bias = address<const float>(tensors(planned)[1]);
  parallel_for(images_, threads_, [&](int64_t i) {
    float* row = y + i * out;
    kernels_.dense_rows(x + i * in, weight, out, in, row);
    for (int64_t o = 0; o < out; o++) {
      row[o] += bias ? bias[o] : 0.0f;
      if (step.relu && row[o] < 0) row[o] = 0;
    }
  });
  return true;
}

void ChainRun::import_input(const PlannedStep& planned, const Block& block, int64_t image) const {
  const ChainInput& in = inputs_[planned.result];
  const Value& value = plan_.values()[planned.result];
  ImageFill f{};
  f.x = in.data + (block.first + image) * in.image_stride;
  f.row_stride = in.row_stride;
  f.column_stride = in.column_stride;
  f.channel_stride = in.channel_stride;
  f.rows = in.height;
  f.columns = in.width;
  f.channels = in.channels;
  f.top = value.top;
  f.left = value.left;
  f.row_end = in.height + 2 * value.top;
  f.out_columns = value.columns();
  f.out = place(value, block, image);
  kernels_.fill_float(f);
}

void ChainRun::simple(const PlannedStep& planned, const Block& block, int64_t number) const {
  const Step& step = planned.step;
  if (step.kind == StepKind::kImport) return import_input(planned, block, number);
  clear_border(planned.result, block, number);
  const Image x = image_of(step.input, block, number);
  const Image y = image_of(planned.result, block, number);
  switch (step.kind) {
    case StepKind::kMaxPool:
      return max_pool(step, x, y);
    case StepKind::kAveragePool:
      return average_pool(step, x, y);
    case StepKind::kAdaptivePool:
      return adaptive_pool(x, y);
    case StepKind::kSubsample:
      return subsample(step, x, y);
    case StepKind::kNorm: {
      const int64_t* t = tensors(planned);
      const float* const arrays[] = {address<const float>(t[0]), address<const float>(t[1]),
                                     address<const float>(t[2]), address<const float>(t[3])};
      return norm(step, arrays, x, y);
    }
    case StepKind::kClamp:
      return clamp(static_cast<float>(step.numbers[0]), static_cast<float>(step.numbers[1]), x, y);
    case StepKind::kAdd:
      return add(x, image_of(step.other, block, number), step.relu, y);
    case StepKind::kFlatten:
      return flatten(x, y.data);
    default:
      throw std::logic_error("not a step of one image");
  }
}

void ChainRun::export_output(size_t number) const {
  const int v = output_values_[number];
  const Value& value = plan_.values()[v];
  if (value.direct >= 0) return;
  const ImageStrides strides = output_strides(value.shape);
  const Block all{0, images_, images_, nullptr, threads_};
  parallel_for(images_, threads_, [&](int64_t image) {
    copy_out(image_of(v, all, image), outputs_[number] + image * strides.image, strides.row,
             strides.pixel, strides.channel);
  });
}

std::vector<ValueShape> shapes_of(const std::vector<ChainInput>& inputs) {
  std::vector<ValueShape> shapes;
  for (const ChainInput& in : inputs)
    shapes.push_back({in.flat, in.channels, in.height, in.width});
  return shapes;
}

}  // namespace

Chain::Chain(int inputs, std::vector<Step> steps, std::vector<int> outputs)
    : inputs_(inputs), steps_(std::move(steps)), outputs_(std::move(outputs)) {
  int64_t tensors = 0;
  int values = inputs;
  for (Step& step : steps_) {
    if (step.input < 0 || step.input >= values || step.other >= values)
      throw std::invalid_argument("a step before its operands");
    step.first_tensor = tensors;
    tensors += tensors_of(step.kind);
    values++;
  }
  tensors_ = tensors;
}

Chain::~Chain() = default;

std::shared_ptr<const ChainPlan> Chain::plan(const Kernels& kernels,
                                             const std::vector<ChainInput>& inputs) const {
  if (static_cast<int>(inputs.size()) != inputs_)
    throw std::invalid_argument("another number of inputs");
  for (const ChainInput& in : inputs)
    if (in.images != inputs[0].images) throw std::invalid_argument("batches of unequal size");
  const std::vector<ValueShape> shapes = shapes_of(inputs);
  std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& plan : plans_)
    if (plan->fits(kernels, shapes)) return plan;
  auto made = std::make_shared<const ChainPlan>(kernels, steps_, inputs_, outputs_, shapes);
  if (plans_.size() == kPlansKept) plans_.erase(plans_.begin());
  plans_.push_back(made);
  return made;
}

std::vector<std::vector<int64_t>> Chain::output_shapes(
    const Kernels& kernels, const std::vector<ChainInput>& inputs) const {
  const auto made = plan(kernels, inputs);
  std::vector<std::vector<int64_t>> shapes;
  for (int output : outputs_) {
    const ValueShape& s = made->values()[output].shape;
    if (s.flat)
      shapes.push_back({s.channels});
    else
      shapes.push_back({s.channels, s.height, s.width});
  }
  return shapes;
}

bool Chain::run(const Kernels& kernels, const std::vector<ChainInput>& inputs,
                const std::vector<int64_t>& tensors, const std::vector<float*>& outputs,
                bool channels_last, int threads) const {
  if (static_cast<int64_t>(tensors.size()) != tensors_ || outputs.size() != outputs_.size())
    throw std::invalid_argument("another number of tensors");
  const auto made = plan(kernels, inputs);
  if (inputs[0].images == 0) return true;
  return ChainRun(kernels, *made, inputs, tensors, outputs_, outputs, channels_last, threads).run();
}

}  // namespace ttq
