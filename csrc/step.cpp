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
#include <type_traits>
#include <vector>

#include "division.h"
#include "parallel.h"
#include "spin.h"

namespace novograd {
namespace {

// All constants count elements. Layers that threads do not share are handed out in about this
// number of batches, in the order of memory. For the processor's prefetching, a batch is large if
// there is enough work for all threads.
constexpr std::size_t batches = 128, smallest_batch = 1 << 14, largest_batch = 1 << 17;
// Fixed cost of a layer: its square root and its call of a loop.
constexpr std::size_t overhead = 16;
// Waking a thread costs as much as a pass over this many elements.
constexpr std::size_t worth_a_thread = 1 << 16;

template <class T>
T* at(T* start, std::size_t index, Dtype dtype) {
  using Byte = std::conditional_t<std::is_const_v<T>, const std::byte, std::byte>;
  return static_cast<Byte*>(start) + index * bytes(dtype);
}

// A step; without a rule, only its square sums.
class Step {
 public:
  Step(std::span<const Tensor> tensors, const Rule* rule, const Kernels& kernels);

  // Does the step on up to `threads` threads.
  void run(int threads);

 private:
  // A layer that several threads share, or all columns of a tensor.
  struct Shared {
    const Tensor* tensor;
    std::size_t layer, layers;
    double* sums;  // for each chunk the sums of all layers
    Scalars scalars;
    std::vector<GroupScalars> columns;
    std::atomic<std::size_t> next_sum = 0, summed = 0, next_pass = 0;
    std::atomic<int> ready = 0;  // 1: `scalars` or `columns` is set
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
  void sum_chunk(const Shared& shared, std::size_t index) const;
  void finish_sums(Shared& shared) const;
  void advance(Shared& shared, const double* s) const;
  void pass_chunk(const Shared& shared, std::size_t index) const;
  void finish(const Tensor& tensor, std::size_t first, std::size_t layers) const;

  bool given(const Tensor& tensor) const { return rule_ != nullptr && tensor.squares != nullptr; }
  double sum(const Tensor& tensor, std::size_t layer, std::size_t index) const;
  void square_norms(const Tensor& tensor, std::size_t first, std::size_t layers, double* s) const;
  void advance(const Tensor& tensor, std::size_t first, std::size_t layers,
               GroupScalars& scalars) const;
  void pass_group(const Tensor& tensor, std::size_t first, std::size_t layers,
                  const GroupScalars* scalars, std::size_t start, std::size_t size) const;
  void pass_shared(const Tensor& tensor, std::size_t first, std::size_t layers,
                   const GroupScalars* scalars, bool skips, std::size_t start,
                   std::size_t size) const;
  Scalars scalars_of(const GroupScalars* groups, std::size_t i) const;
  Scalars advance(const Tensor& tensor, std::size_t layer, double s) const;
  void pass(const Tensor& tensor, std::size_t layer, const Scalars& scalars, std::size_t start,
            std::size_t size, std::size_t next) const;
  void pass_piece(const Tensor& tensor, const Scalars& scalars, std::size_t start, std::size_t size,
                  std::size_t next) const;

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
    (is_shared(tensor) ? large : small).push_back(&tensor);
  }
  const auto shared_size = [](const Tensor* x) {
    return x->grid.layer_size() * (in_rows(*x) ? x->grid.layers : 1);
  };
  const auto larger = [&](const Tensor* x, const Tensor* y) {
    return shared_size(x) > shared_size(y);
  };
  std::stable_sort(large.begin(), large.end(), larger);
  std::stable_sort(small.begin(), small.end(), larger);
  small_.reserve(small.size());
  share(large);
  divide(small);
}

void Step::share(const std::vector<const Tensor*>& tensors) {
  std::size_t count = 0, sums = 0;
  for (const Tensor* tensor : tensors) {
    count += in_rows(*tensor) ? 1 : tensor->grid.layers;
    sums += tensor->grid.layers * chunks(*tensor);
  }
  sums_.resize(sums);
  shared_ = std::vector<Shared>(count);
  double* next = sums_.data();
  Shared* shared = shared_.data();
  for (const Tensor* tensor : tensors) {
    const std::size_t each = in_rows(*tensor) ? tensor->grid.layers : 1;
    for (std::size_t layer = 0; layer < tensor->grid.layers; layer += each, ++shared) {
      shared->tensor = tensor;
      shared->layer = layer;
      shared->layers = each;
      shared->sums = next;
      next += each * chunks(*tensor);
      if (in_rows(*tensor)) shared->columns.resize((each + group - 1) / group);
      if (given(*tensor)) {
        advance(*shared, tensor->squares + layer);
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
      pass_chunk(shared, chunks(tensor) - 1 - taken);  // backwards: the sums read the end last
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
    sum_chunk(shared, taken);
    // The thread that finishes last sees the sums of all others.
    if (shared.summed.fetch_add(1, std::memory_order_acq_rel) + 1 == chunks(tensor)) {
      finish_sums(shared);
    }
    return true;
  }
  return false;
}

// Writes the sums of a chunk.
void Step::sum_chunk(const Shared& shared, std::size_t index) const {
  const Tensor& tensor = *shared.tensor;
  double* s = shared.sums + index * shared.layers;
  if (!in_rows(tensor)) {
    *s = sum(tensor, shared.layer, index);
    return;
  }
  const std::size_t size = chunk_size(tensor), start = index * size, stride = tensor.grid.stride;
  kernels_.column_sums(tensor.gradient_dtype)(
      at(tensor.gradient, start * stride, tensor.gradient_dtype),
      {std::min(size, tensor.grid.runs - start), shared.layers, stride}, s);
}

// Adds the sums of all chunks, and lets the passes begin.
void Step::finish_sums(Shared& shared) const {
  double* s = shared.sums;
  for (std::size_t index = 1; index < chunks(*shared.tensor); ++index) {
    const double* more = s + index * shared.layers;
    for (std::size_t i = 0; i < shared.layers; ++i) s[i] += more[i];
  }
  if (rule_ == nullptr) {
    std::copy_n(s, shared.layers, shared.tensor->squares + shared.layer);
    return;
  }
  advance(shared, s);
  shared.ready.store(1, std::memory_order_release);
  shared.ready.notify_all();
}

// Computes the scalars of all layers from their squared norms.
void Step::advance(Shared& shared, const double* s) const {
  const Tensor& tensor = *shared.tensor;
  if (shared.columns.empty()) {
    shared.scalars = advance(tensor, shared.layer, *s);
    return;
  }
  for (std::size_t first = 0; first < shared.layers; first += group) {
    const std::size_t layers = std::min(group, shared.layers - first);
    GroupScalars& scalars = shared.columns[first / group];
    std::copy_n(s + first, layers, scalars.s);
    advance(tensor, first, layers, scalars);
  }
}

// Does the pass over a chunk.
void Step::pass_chunk(const Shared& shared, std::size_t index) const {
  const Tensor& tensor = *shared.tensor;
  const std::size_t start = pass_start(tensor, index), size = pass_start(tensor, index + 1) - start;
  if (!in_rows(tensor)) return pass(tensor, shared.layer, shared.scalars, start, size, 0);
  for (std::size_t first = 0; first < shared.layers; first += most_columns) {
    pass_group(tensor, first, std::min(most_columns, shared.layers - first),
               &shared.columns[first / group], start, size);
  }
}

bool Step::finish_batch() {
  const std::size_t taken = next_batch_.fetch_add(1, std::memory_order_relaxed);
  if (taken + 1 >= batches_.size()) return false;
  for (std::size_t i = batches_[taken]; i < batches_[taken + 1]; ++i) {
    const Range& range = small_[i];
    const std::size_t width = summed_together(*range.tensor);
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
  pass_group(tensor, first, layers, &found, 0, tensor.grid.layer_size());
}

// Does the pass over `size` elements of each of some layers, from element `start` of the layer.
// `scalars` has the scalars of their groups.
void Step::pass_group(const Tensor& tensor, std::size_t first, std::size_t layers,
                      const GroupScalars* scalars, std::size_t start, std::size_t size) const {
  bool skips = false;
  for (std::size_t i = 0; rule_->skip_nonfinite != 0 && i < layers; ++i) {
    skips |= scalars_of(scalars, i).skip;
  }
  if (share_blocks(tensor)) {
    return pass_shared(tensor, first, layers, scalars, skips, start, size);
  }
  if (of_columns(tensor) && tensor.moment_dtype != Dtype::int8 && !skips) {
    const auto column_pass =
        kernels_.column_pass(tensor.weight_dtype, tensor.gradient_dtype, tensor.moment_dtype);
    const std::size_t begin = start * tensor.grid.stride + first;
    return column_pass(
        tensor.target == nullptr ? nullptr : at(tensor.target, begin, tensor.weight_dtype),
        at(tensor.weights, begin, tensor.weight_dtype),
        at(tensor.gradient, begin, tensor.gradient_dtype),
        at(tensor.moment, begin, tensor.moment_dtype), begin, {size, layers, tensor.grid.stride},
        tensor.rows, scalars);
  }
  // The next sums are those of the next group.
  const std::size_t next = first + layers < tensor.grid.layers ? layers * tensor.grid.run : 0;
  for (std::size_t i = 0; i < layers; ++i) {
    pass(tensor, first + i, scalars_of(scalars, i), start, size, next);
  }
}

// The same if the layers share blocks.
void Step::pass_shared(const Tensor& tensor, std::size_t first, std::size_t layers,
                       const GroupScalars* scalars, bool skips, std::size_t start,
                       std::size_t size) const {
  const Grid& grid = tensor.grid;
  const std::size_t row = tensor.rows.row, period = grid.layers * grid.run;
  const std::size_t first_row = start / grid.run * period / row, column = first * grid.run;
  const std::size_t begin = first_row * row + column;
  const SharedBlocks shape = {.first_row = first_row,
                              .rows = size / grid.run * period / row,
                              .start = column,
                              .columns = row == period ? layers * grid.run : row,
                              .layers = layers,
                              .run = grid.run,
                              .skips = skips,
                              .increment = rule_->increment != 0};
  kernels_.shared_block_pass(tensor.weight_dtype, tensor.gradient_dtype)(
      at(tensor.target, begin, tensor.weight_dtype), at(tensor.weights, begin, tensor.weight_dtype),
      at(tensor.gradient, begin, tensor.gradient_dtype),
      static_cast<std::int8_t*>(tensor.moment) + begin, shape, tensor.rows, scalars);
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
  const std::size_t each = chunk_size(tensor), start = index * each;
  const std::size_t size = std::min(each, tensor.grid.layer_size() - start);
  const SquareSum square_sum = kernels_.square_sum(tensor.gradient_dtype);
  const std::size_t ahead = bytes(tensor.gradient_dtype) < 4 ? ahead_.half_sum : ahead_.sum;
  double s = 0;
  pieces(tensor.grid, layer, start, size, [&](std::size_t offset, std::size_t length) {
    s += square_sum(at(tensor.gradient, offset, tensor.gradient_dtype), length, ahead);
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
  return scalars_of(&scalars, 0);
}

// Returns the scalars of one layer of consecutive groups.
Scalars Step::scalars_of(const GroupScalars* groups, std::size_t i) const {
  const GroupScalars& of = groups[i / group];
  i %= group;
  const bool skip = rule_->skip_nonfinite != 0 && !std::isfinite(of.s[i]);
  return {of.beta1, of.a[i], of.b[i], of.c, of.d[i], of.ahead[i], skip};
}

// Does the pass over `size` elements of a layer. The gradient that the thread sums next lies `next`
// elements later, if this number is not 0.
void Step::pass(const Tensor& tensor, std::size_t layer, const Scalars& scalars, std::size_t start,
                std::size_t size, std::size_t next) const {
  pieces(tensor.grid, layer, start, size, [&](std::size_t offset, std::size_t length) {
    pass_piece(tensor, scalars, offset, length, next);
  });
}

// The same for one piece of memory.
void Step::pass_piece(const Tensor& tensor, const Scalars& scalars, std::size_t start,
                      std::size_t size, std::size_t next) const {
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
    // Other passes keep the memory busy: asking for the next gradient made none of them faster.
    const std::size_t usual = ahead_.quantised;
    const std::size_t distance =
        usual == 0 || next == 0 ? usual : next * bytes(tensor.gradient_dtype);
    return kernels_.quantised_pass(tensor.weight_dtype, tensor.gradient_dtype)(
        target, weights, gradient, static_cast<std::int8_t*>(moment), start, size, tensor.rows,
        scalars, {usual, distance});
  }
  kernels_.linear_pass(tensor.weight_dtype, tensor.gradient_dtype, tensor.moment_dtype)(
      target, weights, gradient, moment, start, size, tensor.rows, scalars, ahead_.pass);
}

}  // namespace

void step(std::span<const Tensor> tensors, const Rule& rule, const Kernels& kernels, int threads) {
  Step(tensors, &rule, kernels).run(threads);
}

void square_sums(std::span<const Tensor> tensors, const Kernels& kernels, int threads) {
  Step(tensors, nullptr, kernels).run(threads);
}

}  // namespace novograd
