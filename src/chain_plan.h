// What running a chain on inputs of one shape takes: shapes, where values lie, prepared
// convolutions.
#pragma once

#include <memory>
#include <vector>

#include "chain.h"
#include "conv2d.h"

namespace ttq {

struct ValueShape {
  bool flat;
  int64_t channels, height, width;  // flat: (features, 1, 1)

  int64_t elements() const { return channels * height * width; }
  bool operator==(const ValueShape& o) const {
    return flat == o.flat && channels == o.channels && height == o.height && width == o.width;
  }
};

struct Value {
  ValueShape shape;
  int64_t top = 0, left = 0;  // zeros on either side
  int phase = -1;             // in which it is made; -1: unused
  int made = 0, last_use = 0; // positions in the order of all steps
  bool shared = false;        // kept for the whole batch
  int64_t offset = 0;         // floats for each image before it
  int direct = -1;            // the output that it is written to as it is made; -1: none

  int64_t columns() const { return shape.width + 2 * left; }
  int64_t floats() const { return (shape.height + 2 * top) * columns() * shape.channels; }
};

struct PlannedStep {
  Step step;
  int result;
  std::unique_ptr<Convolution> convolution;
};

// Steps that run together: some images after some, or, of linear layers, on the whole batch.
struct Phase {
  bool whole_batch;
  std::vector<int> steps;
  int64_t floats = 0;  // for each image of what is not shared
};

class ChainPlan {
 public:
  ChainPlan(const Kernels& kernels, const std::vector<Step>& steps, int inputs,
            const std::vector<int>& outputs, const std::vector<ValueShape>& input_shapes);

  bool fits(const Kernels& kernels, const std::vector<ValueShape>& input_shapes) const {
    return &kernels == kernels_ && input_shapes == input_shapes_;
  }
  const std::vector<Value>& values() const { return values_; }
  const std::vector<PlannedStep>& steps() const { return steps_; }
  const std::vector<Phase>& phases() const { return phases_; }
  int64_t shared_floats() const { return shared_floats_; }

 private:
  ValueShape shape_of(const Step& step) const;
  void add_borders();
  void set_phases();
  void place_values(const std::vector<int>& outputs);
  int64_t place(const std::vector<int>& values);
  void prepare_convolutions();

  const Kernels* kernels_;
  std::vector<ValueShape> input_shapes_;
  std::vector<Value> values_;
  std::vector<PlannedStep> steps_;
  std::vector<Phase> phases_;
  int64_t shared_floats_ = 0;
};

}  // namespace ttq
