#include "chain_plan.h"

#include <algorithm>
#include <stdexcept>

namespace ttq {
namespace {

constexpr int64_t kAlignment = 16;  // floats: a cache line

[[noreturn]] void refuse(const char* what) { throw std::invalid_argument(what); }

bool is_convolution(const Step& step) {
  return step.kind == StepKind::kConvolution || step.kind == StepKind::kDenseConvolution;
}

bool is_linear(const Step& step) {
  return step.kind == StepKind::kLinear || step.kind == StepKind::kDenseLinear;
}

bool reads_in_place(const Step& step) { return is_convolution(step) && !step.sizes[13]; }

// As torch computes it (aten/src/ATen/native/Pool.h).
int64_t pooled(int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation,
               bool ceil_mode) {
  const int64_t room = size + 2 * padding - dilation * (kernel - 1) - 1;
  if (room < 0) refuse("a window is larger than its input");
  int64_t out = (room + (ceil_mode ? stride - 1 : 0)) / stride + 1;
  if (ceil_mode && (out - 1) * stride >= size + padding) out--;
  return out;
}

}  // namespace

ChainPlan::ChainPlan(const Kernels& kernels, const std::vector<Step>& steps, int inputs,
                     const std::vector<int>& outputs, const std::vector<ValueShape>& input_shapes)
    : kernels_(&kernels), input_shapes_(input_shapes) {
  for (int i = 0; i < inputs; i++) {
    Value value;
    value.shape = input_shapes[i];
    values_.push_back(value);
    steps_.push_back({{StepKind::kImport, -1, -1, false, {}, {}}, i, nullptr});
  }
  for (const Step& step : steps) {
    Value value;
    value.shape = shape_of(step);
    if (value.shape.elements() == 0) refuse("an empty result");
    steps_.push_back({step, static_cast<int>(values_.size()), nullptr});
    values_.push_back(value);
  }
  add_borders();
  set_phases();
  place_values(outputs);
  prepare_convolutions();
}

ValueShape ChainPlan::shape_of(const Step& step) const {
  const ValueShape in = values_[step.input].shape;
  const auto& s = step.sizes;
  const bool images = is_convolution(step) || step.kind == StepKind::kMaxPool ||
                      step.kind == StepKind::kAveragePool || step.kind == StepKind::kAdaptivePool ||
                      step.kind == StepKind::kSubsample || step.kind == StepKind::kFlatten;
  if ((images && in.flat) || (is_linear(step) && !in.flat)) refuse("another number of dimensions");
  ValueShape out = in;
  switch (step.kind) {
    case StepKind::kConvolution:
    case StepKind::kDenseConvolution:
      if (in.channels != s[9] * s[10]) refuse("another number of channels");
      out.channels = s[0];
      out.height = pooled(in.height, s[1], s[3], s[5], s[7], false);
      out.width = pooled(in.width, s[2], s[4], s[6], s[8], false);
      break;
    case StepKind::kMaxPool:
    case StepKind::kAveragePool:
      out.height = pooled(in.height, s[0], s[2], s[4], s[6], s[8]);
      out.width = pooled(in.width, s[1], s[3], s[5], s[7], s[8]);
      break;
    case StepKind::kAdaptivePool:
      out.height = s[0];
      out.width = s[1];
      break;
    case StepKind::kSubsample:
      out.channels = s[2] + in.channels + s[3];
      out.height = (in.height + s[0] - 1) / s[0];
      out.width = (in.width + s[1] - 1) / s[1];
      break;
    case StepKind::kLinear:
    case StepKind::kDenseLinear:
      if (in.channels != s[1]) refuse("another number of features");
      out.channels = s[0];
      break;
    case StepKind::kNorm:
      if (in.channels != s[0]) refuse("another number of channels");
      break;
    case StepKind::kFlatten:
      out = {true, in.elements(), 1, 1};
      break;
    default:
      break;
  }
  if (step.other >= 0 && !(values_[step.other].shape == out)) refuse("operands of unequal shapes");
  return out;
}

void ChainPlan::add_borders() {
  for (const PlannedStep& planned : steps_) {
    if (!reads_in_place(planned.step)) continue;
    Value& in = values_[planned.step.input];
    in.top = std::max(in.top, planned.step.sizes[5]);
    in.left = std::max(in.left, planned.step.sizes[6]);
  }
}

void ChainPlan::set_phases() {
  phases_.push_back({false, {}});
  for (size_t i = 0; i < steps_.size(); i++) {
    const bool whole_batch = is_linear(steps_[i].step);
    if (phases_.back().whole_batch != whole_batch) phases_.push_back({whole_batch, {}});
    phases_.back().steps.push_back(static_cast<int>(i));
    const int phase = static_cast<int>(phases_.size()) - 1, at = static_cast<int>(i);
    Value& made = values_[steps_[i].result];
    made.phase = phase;
    made.made = made.last_use = at;
    made.shared = whole_batch;
    for (int used : {steps_[i].step.input, steps_[i].step.other}) {
      if (used < 0) continue;
      values_[used].last_use = at;
      if (values_[used].phase != phase) values_[used].shared = true;
    }
  }
}

void ChainPlan::place_values(const std::vector<int>& outputs) {
  for (size_t i = 0; i < outputs.size(); i++) {
    Value& value = values_[outputs[i]];
    const Step& step = steps_[value.made].step;
    const bool writes_anywhere = is_convolution(step) || is_linear(step);
    if (writes_anywhere && value.last_use == value.made && value.direct < 0)
      value.direct = static_cast<int>(i);
    else
      value.last_use = static_cast<int>(steps_.size());
    value.shared = true;
  }
  std::vector<int> shared;
  std::vector<std::vector<int>> local(phases_.size());
  for (size_t v = 0; v < values_.size(); v++) {
    const Value& value = values_[v];
    if (value.direct >= 0) continue;
    (value.shared ? shared : local[value.phase]).push_back(static_cast<int>(v));
  }
  // Shared values may be in use on several threads at once: each has its own place.
  for (int v : shared) {
    values_[v].offset = shared_floats_;
    shared_floats_ += round_up(values_[v].floats(), kAlignment);
  }
  for (size_t p = 0; p < phases_.size(); p++) phases_[p].floats = place(local[p]);
}

// Puts each value at the lowest place that no value in use at the same time has; returns the end.
int64_t ChainPlan::place(const std::vector<int>& values) {
  int64_t end = 0;
  std::vector<int> placed;
  for (int v : values) {
    Value& value = values_[v];
    const int64_t size = round_up(value.floats(), kAlignment);
    std::vector<std::pair<int64_t, int64_t>> taken;
    for (int p : placed) {
      const Value& other = values_[p];
      if (other.last_use >= value.made && value.last_use >= other.made)
        taken.push_back({other.offset, other.offset + round_up(other.floats(), kAlignment)});
    }
    std::sort(taken.begin(), taken.end());
    value.offset = 0;
    for (const auto& [begin, after] : taken)
      if (begin < value.offset + size) value.offset = std::max(value.offset, after);
    end = std::max(end, value.offset + size);
    placed.push_back(v);
  }
  return end;
}

void ChainPlan::prepare_convolutions() {
  for (PlannedStep& planned : steps_) {
    if (!is_convolution(planned.step)) continue;
    const auto& s = planned.step.sizes;
    const Value& in = values_[planned.step.input];
    const Value& out = values_[planned.result];
    const bool in_place = reads_in_place(planned.step);
    Conv2dShape shape{};
    shape.images = 1;
    shape.channels = in.shape.channels;
    shape.height = in.shape.height + (in_place ? 2 * s[5] : 0);
    shape.width = in.shape.width + (in_place ? 2 * s[6] : 0);
    shape.image_stride = in.floats();
    shape.channel_stride = 1;
    shape.row_stride = in.columns() * in.shape.channels;
    shape.column_stride = in.shape.channels;
    shape.out_channels = s[0];
    shape.kernel_height = s[1];
    shape.kernel_width = s[2];
    shape.stride_height = s[3];
    shape.stride_width = s[4];
    shape.padding_height = in_place ? 0 : s[5];
    shape.padding_width = in_place ? 0 : s[6];
    shape.dilation_height = s[7];
    shape.dilation_width = s[8];
    shape.groups = s[9];
    shape.out_height = out.shape.height;
    shape.out_width = out.shape.width;
    shape.shared_tables = s[12] != 0;
    planned.convolution =
        std::make_unique<Convolution>(*kernels_, shape, s[13] != 0, in_place);
    if (!planned.convolution->usable()) refuse("images too large");
  }
}

}  // namespace ttq
