// A stretch of a network in one call: convolutions, linear layers, pooling and what lies between.
//
// Some images at a time go through a whole run of layers, so that their activations stay in the
// near caches. Activations are float32, channels last, each image with as wide a border of zeros as
// the convolutions that read it where it lies want; linear layers, whose weights should be read
// once, take the whole batch.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels.h"

namespace ttq {

class ChainPlan;

// kernels/chain.py has the same numbers.
enum class StepKind : int {
  kImport,            // an input of the chain, put in by ChainPlan
  kConvolution,       // tensors: codes, scale_pos, scale_neg, bias, whether ReLU follows, and the
                      // bytes that the codes take
  kDenseConvolution,  // tensors: weight, bias
  kLinear,            // tensors: as a convolution's
  kDenseLinear,       // tensors: weight, bias
  kMaxPool,
  kAveragePool,
  kAdaptivePool,
  kSubsample,  // every n-th row and column, with channels of zeros put before and after
  kNorm,       // tensors: weight, bias, mean, variance
  kClamp,
  kAdd,
  kFlatten,  // (channels, height, width) to one row, in this order
};

// One layer. Values are numbered: first the chain's inputs, then each step's result.
struct Step {
  StepKind kind;
  int input;
  int other;  // what is added; -1 for none
  bool relu;
  // Convolutions: out, kernel, stride, padding, dilation (two each), groups, channels of a group,
  // packed columns, shared tables, int8. Linear: out, in, int8. Pools: kernel, stride, padding,
  // dilation, ceil mode, whether padding counts. Adaptive: height, width. Subsample: stride
  // (height, width), channels before, after.
  std::vector<int64_t> sizes;
  std::vector<double> numbers;  // norm: epsilon; clamp: lowest, highest
  int64_t first_tensor = 0;
};

// An input: float32 (images, channels, height, width) of any strides, or (images, features).
struct ChainInput {
  const float* data;
  int64_t images;
  bool flat;
  int64_t channels, height, width;
  int64_t image_stride, channel_stride, row_stride, column_stride;
};

// Immutable but for its plans, and safe to run from several threads at once.
class Chain {
 public:
  Chain(int inputs, std::vector<Step> steps, std::vector<int> outputs);
  ~Chain();

  // (channels, height, width), or (features), of each output. Throws std::invalid_argument where a
  // step does not take what it would get.
  std::vector<std::vector<int64_t>> output_shapes(const Kernels& kernels,
                                                  const std::vector<ChainInput>& inputs) const;

  // False, with outputs undefined, where the layers one by one must be run instead: float32
  // activations of packed layers that are not finite or too large. `tensors` are addresses, or the
  // numbers that Step says. Outputs are contiguous, or channels last.
  bool run(const Kernels& kernels, const std::vector<ChainInput>& inputs,
           const std::vector<int64_t>& tensors, const std::vector<float*>& outputs,
           bool channels_last, int threads) const;

 private:
  std::shared_ptr<const ChainPlan> plan(const Kernels& kernels,
                                        const std::vector<ChainInput>& inputs) const;

  int inputs_;
  std::vector<Step> steps_;
  std::vector<int> outputs_;
  int64_t tensors_ = 0;
  // Plans of the shapes last seen.
  mutable std::mutex mutex_;
  mutable std::vector<std::shared_ptr<const ChainPlan>> plans_;
};

}  // namespace ttq
