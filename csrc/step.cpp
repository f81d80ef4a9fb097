// Divides a step among threads. The square sums and linear passes are cut into chunks of fixed
// size. Each thread takes the next chunk that can be done, and waits only if there is none. Partial
// sums belong to chunks, not to threads, and are added in the order of the chunks. So the results
// have the same bits for any number of threads.
#include "step.h"

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <cmath>
#include <cstring>
#include <numeric>
#include <type_traits>
#include <vector>

#include "parallel.h"
#include "spin.h"

namespace novograd {
namespace {

// All constants count elements. A chunk's three arrays fit in a core's cache. A shorter chunk would
// interrupt the processor's prefetching more often.
constexpr std::size_t chunk = 1 << 16;
// One thread does a layer of up to this size; its gradient is still in the cache for the pass.
constexpr std::size_t whole = 1 << 17;
// Such layers are handed out in about this number of batches, in the order of memory. For the
// processor's prefetching too, a batch is large if there is enough work for all threads.
constexpr std::size_t batches = 128, smallest_batch = 1 << 14, largest_batch = 1 << 17;
// Fixed cost of a layer: its square root and its call of a loop.
constexpr std::size_t overhead = 16;
// Waking a thread costs as much as a pass over this many elements.
constexpr std::size_t worth_a_thread = 1 << 16;

std::size_t chunks(const Tensor& tensor) { return (tensor.grid.layer_size() + chunk - 1) / chunk; }

// Returns where the pass of a chunk begins in a layer. Blocks that share a scale are not cut: they
// belong to the chunk that has their first element.
std::size_t pass_start(const Tensor& tensor, std::size_t index) {
  const std::size_t start = std::min(index * chunk, tensor.grid.layer_size());
  if (tensor.moment_dtype != Dtype::int8) return start;
  const std::size_t row = tensor.quantised.row, column = start % row;
  const std::size_t within = column % quantised_block;
  return within == 0 ? start : start + std::min(quantised_block - within, row - column);
}

// Whether elements that are neighbours in memory belong to different layers: the columns of a
// matrix are the layers, or each element is a layer.
bool of_columns(const Tensor& tensor) { return tensor.grid.run == 1; }

// The number of layers that one thread does together. Columns lie in the same cache lines, and a
// wide piece of each row is read faster. But all of it should stay in a cache for the pass.
std::size_t together(const Tensor& tensor) {
  if (!of_columns(tensor)) return 1;
  std::size_t width = group;
  while (width > group / 4 && width * tensor.grid.runs > 1 << 20) width /= 2;
  return width;
}

template <class T>
T* at(T* start, std::size_t index, Dtype dtype) {
  using Byte = std::conditional_t<std::is_const_v<T>, const std::byte, std::byte>;
  return static_cast<Byte*>(start) + index * bytes(dtype);
}

// Calls `take(offset, length)` for each piece of memory that contains some of the `size` elements
// of a layer that begin at element `start`.
template <class Take>
void pieces(const Grid& grid, std::size_t layer, std::size_t start, std::size_t size,
            const Take& take) {
  if (size == 0) return;
  if (grid.runs == 1) return take(layer * grid.run + start, size);  // saves the divisions
  std::size_t within = start % grid.run;
  std::size_t offset = start / grid.run * grid.stride + layer * grid.run;
  for (const std::size_t end = start + size; start < end; offset += grid.stride, within = 0) {
    const std::size_t length = std::min(grid.run - within, end - start);
    take(offset + within, length);
    start += length;
  }
}

// A step; without a rule, only its square sums.
class Step {
 public:
  Step(std::span<const Tensor> tensors, const Rule* rule, const Kernels& kernels);

  // Does the step on up to `threads` threads.
  void run(int threads);

 private:
  // A layer that several threads share.
  struct Shared {
    const Tensor* tensor;
    std::size_t layer;
    double* sums;
    Scalars scalars;
    std::atomic<std::size_t> next_sum = 0, summed = 0, next_pass = 0;
    std::atomic<int> ready = 0;  // 1: `scalars` is set
  };
  // Layers of a tensor that are too small to share.
  struct Range {
    const Tensor* tensor;
    std::size_t first, end;
  };

  void share(const std::vector<const Tensor*>& tensors);
  void divide(const std::vector<const Tensor*>& tensors);

  void work();
  bool pass_one(std::size_t& open, std::size_t end);
  bool sum_one(std::size_t& unsummed);
  bool finish_batch();
  void finish(const Tensor& tensor, std::size_t first, std::size_t layers) const;

  bool given(const Tensor& tensor) const { return rule_ != nullptr && tensor.squares != nullptr; }
  double sum(const Tensor& tensor, std::size_t layer, std::size_t index) const;
  void square_norms(const Tensor& tensor, std::size_t first, std::size_t layers, double* s) const;
  void advance(const Tensor& tensor, std::size_t first, std::size_t layers,
               GroupScalars& scalars) const;
  void pass_columns(const Tensor& tensor, std::size_t first, std::size_t layers,
                    const GroupScalars& scalars) const;
  Scalars scalars_of(const GroupScalars& of, std::size_t i) const;
  Scalars advance(const Tensor& tensor, std::size_t layer, double s) const;
  void pass(const Tensor& tensor, std::size_t layer, const Scalars& scalars, std::size_t start,
            std::size_t size) const;
  void pass(const Tensor& tensor, const Scalars& scalars, std::size_t start,
            std::size_t size) const;

  const Rule* rule_;
  const Kernels& kernels_;
  const Ahead ahead_;
  std::size_t cost_ = 0;                    // in elements
  std::vector<Range> small_;                // largest layers first
  std::vector<std::size_t> batches_ = {0};  // where each batch begins in small_, and the end
  std::atomic<std::size_t> next_batch_ = 0;
  std::vector<double> sums_;
  std::vector<Shared> shared_;  // largest first
};

Step::Step(std::span<const Tensor> tensors, const Rule* rule, const Kernels& kernels)
    : rule_(rule), kernels_(kernels), ahead_(ahead()) {
  std::vector<const Tensor*> large, small;
  for (const Tensor& tensor : tensors) {
    const std::size_t size = tensor.grid.layer_size();
    if (size == 0 && rule != nullptr && !given(tensor)) continue;
    cost_ += tensor.grid.layers * (size + overhead);
    (size > whole && !of_columns(tensor) ? large : small).push_back(&tensor);
  }
  const auto larger = [](const Tensor* x, const Tensor* y) {
    return x->grid.layer_size() > y->grid.layer_size();
  };
  std::stable_sort(large.begin(), large.end(), larger);
  std::stable_sort(small.begin(), small.end(), larger);
  small_.reserve(small.size());
  share(large);
  divide(small);
}

void Step::share(const std::vector<const Tensor*>& tensors) {
  std::size_t layers = 0, sums = 0;
  for (const Tensor* tensor : tensors) {
    layers += tensor->grid.layers;
    sums += tensor->grid.layers * chunks(*tensor);
  }
  sums_.resize(sums);
  shared_ = std::vector<Shared>(layers);
  double* next = sums_.data();
  Shared* shared = shared_.data();
  for (const Tensor* tensor : tensors) {
    for (std::size_t layer = 0; layer < tensor->grid.layers; ++layer, ++shared) {
      shared->tensor = tensor;
      shared->layer = layer;
      shared->sums = next;
      next += chunks(*tensor);
      if (given(*tensor)) {
        shared->scalars = advance(*tensor, layer, tensor->squares[layer]);
        shared->next_sum = chunks(*tensor);
        shared->ready = 1;
      }
    }
  }
}

void Step::divide(const std::vector<const Tensor*>& tensors) {
  const std::size_t batch = std::clamp(cost_ / batches, smallest_batch, largest_batch);
  std::size_t taken = 0;  // cost of the current batch
  for (const Tensor* tensor : tensors) {
    const auto layers = tensor->grid.layers, cost = tensor->grid.layer_size() + overhead;
    const std::size_t width = together(*tensor);
    for (std::size_t first = 0, end = 0; first < layers; first = end) {
      for (; end < layers && taken < batch; end += width) taken += width * cost;
      end = std::min(end, layers);
      small_.push_back({tensor, first, end});
      if (taken < batch) continue;
      batches_.push_back(small_.size());
      taken = 0;
    }
  }
  if (taken > 0) batches_.push_back(small_.size());
}

void Step::run(int threads) {
  // Each thread has its own setting whether subnormal numbers count as zero. All use the caller's.
  std::fenv_t environment;
  std::fegetenv(&environment);
  parallel(cost_ > worth_a_thread ? threads : 1, [&] {
    std::fenv_t own;
    std::fegetenv(&own);
    std::fesetenv(&environment);
    work();
    std::fesetenv(&own);
  });
}

// Does chunks until none is left.
void Step::work() {
  std::size_t open = 0;      // shared layers before this one have no passes left
  std::size_t unsummed = 0;  // shared layers before this one have no sums left
  while (true) {
    // Passes first: gradients that were read for the sums are still in the cache.
    if (pass_one(open, unsummed) || sum_one(unsummed) || finish_batch()) continue;
    if (open == shared_.size() || rule_ == nullptr) return;
    // Another thread is still doing this layer's last sums.
    const std::atomic<int>& ready = shared_[open].ready;
    if (!spin_until([&] { return ready.load(std::memory_order_acquire) != 0; })) {
      ready.wait(0, std::memory_order_acquire);
    }
  }
}

bool Step::pass_one(std::size_t& open, std::size_t unsummed) {
  for (std::size_t i = open; i < shared_.size() && i <= unsummed; ++i) {
    Shared& shared = shared_[i];
    const Tensor& tensor = *shared.tensor;
    if (shared.ready.load(std::memory_order_acquire) == 0) continue;
    const std::size_t taken = shared.next_pass.fetch_add(1, std::memory_order_relaxed);
    if (taken < chunks(tensor)) {
      // Backwards, since the sums read the end last.
      const std::size_t index = chunks(tensor) - 1 - taken, start = pass_start(tensor, index);
      pass(tensor, shared.layer, shared.scalars, start, pass_start(tensor, index + 1) - start);
      return true;
    }
    if (i == open) ++open;
  }
  return false;
}

bool Step::sum_one(std::size_t& unsummed) {
  for (; unsummed < shared_.size(); ++unsummed) {
    Shared& shared = shared_[unsummed];
    const Tensor& tensor = *shared.tensor;
    const std::size_t taken = shared.next_sum.fetch_add(1, std::memory_order_relaxed);
    if (taken >= chunks(tensor)) continue;
    shared.sums[taken] = sum(tensor, shared.layer, taken);
    // The thread that finishes last sees the sums of all others.
    if (shared.summed.fetch_add(1, std::memory_order_acq_rel) + 1 == chunks(tensor)) {
      const double s = std::accumulate(shared.sums, shared.sums + chunks(tensor), 0.0);
      if (rule_ == nullptr) {
        tensor.squares[shared.layer] = s;
      } else {
        shared.scalars = advance(tensor, shared.layer, s);
        shared.ready.store(1, std::memory_order_release);
        shared.ready.notify_all();
      }
    }
    return true;
  }
  return false;
}

bool Step::finish_batch() {
  const std::size_t taken = next_batch_.fetch_add(1, std::memory_order_relaxed);
  if (taken + 1 >= batches_.size()) return false;
  for (std::size_t i = batches_[taken]; i < batches_[taken + 1]; ++i) {
    const Range& range = small_[i];
    const std::size_t width = of_columns(*range.tensor) ? together(*range.tensor) : group;
    for (std::size_t first = range.first; first < range.end; first += width) {
      finish(*range.tensor, first, std::min(width, range.end - first));
    }
  }
  return true;
}

// Does a group of layers. All sums come first: then the scalars of the group, which have long
// chains of arithmetic, are computed together.
void Step::finish(const Tensor& tensor, std::size_t first, std::size_t layers) const {
  if (rule_ == nullptr) return square_norms(tensor, first, layers, tensor.squares + first);
  GroupScalars found;
  if (given(tensor)) {
    std::copy_n(tensor.squares + first, layers, found.s);
  } else {
    square_norms(tensor, first, layers, found.s);
  }
  advance(tensor, first, layers, found);
  const auto finite = [](double s) { return std::isfinite(s); };
  const bool skips = rule_->skip_nonfinite != 0 && !std::all_of(found.s, found.s + layers, finite);
  const bool as_columns = of_columns(tensor) && tensor.moment_dtype != Dtype::int8;
  if (as_columns && !skips) return pass_columns(tensor, first, layers, found);
  for (std::size_t i = 0; i < layers; ++i) {
    pass(tensor, first + i, scalars_of(found, i), 0, tensor.grid.layer_size());
  }
}

// Does the pass over a group of columns.
void Step::pass_columns(const Tensor& tensor, std::size_t first, std::size_t layers,
                        const GroupScalars& scalars) const {
  const auto column_pass =
      kernels_.column_pass(tensor.weight_dtype, tensor.gradient_dtype, tensor.moment_dtype);
  column_pass(tensor.target == nullptr ? nullptr : at(tensor.target, first, tensor.weight_dtype),
              at(tensor.weights, first, tensor.weight_dtype),
              at(tensor.gradient, first, tensor.gradient_dtype),
              at(tensor.moment, first, tensor.moment_dtype),
              {tensor.grid.runs, layers, tensor.grid.stride}, scalars);
}

// Writes the squared norms of layers to `s`.
void Step::square_norms(const Tensor& tensor, std::size_t first, std::size_t layers,
                        double* s) const {
  if (of_columns(tensor)) {
    const Columns shape = {tensor.grid.runs, layers, tensor.grid.stride};
    const void* gradient = at(tensor.gradient, first, tensor.gradient_dtype);
    return kernels_.column_sums(tensor.gradient_dtype)(gradient, shape, s);
  }
  for (std::size_t i = 0; i < layers; ++i) {
    s[i] = 0;
    for (std::size_t j = 0; j < chunks(tensor); ++j) s[i] += sum(tensor, first + i, j);
  }
}

// Returns the sum of the squares of a chunk.
double Step::sum(const Tensor& tensor, std::size_t layer, std::size_t index) const {
  const std::size_t start = index * chunk;
  const std::size_t size = std::min(chunk, tensor.grid.layer_size() - start);
  const SquareSum square_sum = kernels_.square_sum(tensor.gradient_dtype);
  double s = 0;
  pieces(tensor.grid, layer, start, size, [&](std::size_t offset, std::size_t length) {
    s += square_sum(at(tensor.gradient, offset, tensor.gradient_dtype), length, ahead_.sum);
  });
  return s;
}

// Updates v of a group of layers with the squared norms, and computes the scalars.
void Step::advance(const Tensor& tensor, std::size_t first, std::size_t layers,
                   GroupScalars& scalars) const {
  const Dtype dtype = tensor.weight_dtype == Dtype::float64 ? Dtype::float64 : Dtype::float32;
  kernels_.advance(dtype)(*rule_, tensor.scale, at(tensor.v, first, dtype), layers, scalars);
}

// The same for one layer.
Scalars Step::advance(const Tensor& tensor, std::size_t layer, double s) const {
  GroupScalars scalars;
  scalars.s[0] = s;
  advance(tensor, layer, 1, scalars);
  return scalars_of(scalars, 0);
}

// Returns the scalars of one layer of a group.
Scalars Step::scalars_of(const GroupScalars& of, std::size_t i) const {
  const bool skip = rule_->skip_nonfinite != 0 && !std::isfinite(of.s[i]);
  return {of.beta1, of.a[i], of.b[i], of.c, of.d[i], of.ahead[i], skip};
}

void Step::pass(const Tensor& tensor, std::size_t layer, const Scalars& scalars, std::size_t start,
                std::size_t size) const {
  pieces(tensor.grid, layer, start, size,
         [&](std::size_t offset, std::size_t length) { pass(tensor, scalars, offset, length); });
}

// Does the pass over one piece of memory.
void Step::pass(const Tensor& tensor, const Scalars& scalars, std::size_t start,
                std::size_t size) const {
  void* target = tensor.target == nullptr ? nullptr : at(tensor.target, start, tensor.weight_dtype);
  const void* weights = at(tensor.weights, start, tensor.weight_dtype);
  if (scalars.skip) {
    const std::size_t length = size * bytes(tensor.weight_dtype);
    if (target != nullptr && rule_->increment != 0) {
      std::memset(target, 0, length);
    } else if (target != nullptr && target != weights) {
      std::memcpy(target, weights, length);
    }
    return;
  }
  const void* gradient = at(tensor.gradient, start, tensor.gradient_dtype);
  void* moment = at(tensor.moment, start, tensor.moment_dtype);
  if (tensor.moment_dtype == Dtype::int8) {
    return kernels_.quantised_pass(tensor.weight_dtype, tensor.gradient_dtype)(
        target, weights, gradient, static_cast<std::int8_t*>(moment), start, size, tensor.quantised,
        scalars, ahead_.quantised);
  }
  kernels_.linear_pass(tensor.weight_dtype, tensor.gradient_dtype, tensor.moment_dtype)(
      target, weights, gradient, moment, size, scalars, ahead_.pass);
}

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

void step(std::span<const Tensor> tensors, const Rule& rule, const Kernels& kernels, int threads) {
  Step(tensors, &rule, kernels).run(threads);
}

void square_sums(std::span<const Tensor> tensors, const Kernels& kernels, int threads) {
  Step(tensors, nullptr, kernels).run(threads);
}

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
        const Quantised& rows = tensor.quantised;
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
