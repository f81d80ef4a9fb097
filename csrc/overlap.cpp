// Finds tensors that share memory.
#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "step.h"
#include "tensor.h"

namespace novograd {
namespace {

// The memory of an array: pieces of `length` bytes, `stride` bytes apart.
struct Extent {
  const std::byte *begin, *end;
  std::size_t length, stride;
  std::size_t tensor;
  bool written;
};

Extent extent(const void* start, const Grid& grid, Dtype dtype, std::size_t tensor, bool written) {
  const auto* begin = static_cast<const std::byte*>(start);
  const std::size_t length = grid.layers * grid.run * bytes(dtype);
  const std::size_t stride = grid.runs > 1 ? grid.stride * bytes(dtype) : length;
  return {begin, begin + (grid.runs - 1) * stride + length, length, stride, tensor, written};
}

// Returns whether two extents share a byte; x must not begin after y. Only an extent of the same
// stride can lie in gaps: its pieces are then all at the same place between the pieces of the
// other.
bool meet(const Extent& x, const Extent& y) {
  if (y.begin >= x.end) return false;
  if (y.stride != x.stride) return true;
  const std::size_t within = static_cast<std::size_t>(y.begin - x.begin) % x.stride;
  return within < x.length || within + y.length > x.stride;
}

}  // namespace

std::optional<std::pair<std::size_t, std::size_t>> overlap(std::span<const Tensor> tensors) {
  std::vector<Extent> extents;
  extents.reserve(5 * tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const Tensor& tensor = tensors[i];
    const bool empty = tensor.grid.layers * tensor.grid.layer_size() == 0;
    if (!empty) {
      if (tensor.target != nullptr) {
        extents.push_back(extent(tensor.target, tensor.grid, tensor.weight_dtype, i, true));
      }
      extents.push_back(extent(tensor.moment, tensor.grid, tensor.moment_dtype, i, true));
      extents.push_back(extent(tensor.gradient, tensor.grid, tensor.gradient_dtype, i, false));
      if (tensor.moment_dtype == Dtype::int8) {
        const Grid& grid = tensor.grid;
        const Rows& rows = tensor.rows;
        const std::size_t elements = (grid.runs - 1) * grid.stride + grid.layers * grid.run;
        const std::size_t scales = elements / rows.row * rows.row_scales();
        extents.push_back(extent(rows.scales, {1, 1, scales, 0}, Dtype::float32, i, true));
      }
    }
    if (!empty || (tensor.squares != nullptr && tensor.grid.layers != 0)) {
      const Dtype dtype = tensor.weight_dtype == Dtype::float64 ? Dtype::float64 : Dtype::float32;
      extents.push_back(extent(tensor.v, {1, tensor.grid.layers, 1, 0}, dtype, i, true));
    }
  }
  std::sort(extents.begin(), extents.end(),
            [](const Extent& x, const Extent& y) { return x.begin < y.begin; });
  // Earlier extents that may reach into the next one. If nothing overlaps, only few of them are
  // written: parts of one array.
  std::vector<const Extent*> read, written;
  for (const Extent& next : extents) {
    const auto first_met = [&](std::vector<const Extent*>& others) {
      std::erase_if(others, [&](const Extent* other) { return other->end <= next.begin; });
      const auto met = std::find_if(others.begin(), others.end(),
                                    [&](const Extent* other) { return meet(*other, next); });
      return met == others.end() ? nullptr : *met;
    };
    const Extent* other = first_met(written);
    if (other == nullptr && next.written) other = first_met(read);
    if (other != nullptr) return std::pair(other->tensor, next.tensor);
    (next.written ? written : read).push_back(&next);
  }
  return std::nullopt;
}

}  // namespace novograd
