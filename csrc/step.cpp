// The plan of a step. Its square sums and its linear passes are cut into chunks of fixed size, and
// any thread takes whatever may be done next; nobody waits for anybody before everything is taken.
// Partial sums belong to chunks, not to threads, and are added in the order of the chunks: so the
// results are the same bits for any number of threads.
#include "step.h"

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <cstring>
#include <type_traits>
#include <vector>

#include "parallel.h"
#include "spin.h"

namespace novograd {
namespace {

// In elements. A chunk's three arrays fit in a core's cache; what it takes dwarfs its hand-over.
constexpr std::size_t chunk = 1 << 15;
// A layer up to this is done by one thread, which still has its gradient in its cache for the pass.
constexpr std::size_t whole = 1 << 17;
// Smaller layers are handed out together, up to about this many elements.
constexpr std::size_t batch = 1 << 14;
// Waking a thread takes as long as a pass over this many elements.
constexpr std::size_t worth_a_thread = 1 << 16;

std::size_t chunks(const Layer& layer) { return (layer.size + chunk - 1) / chunk; }

template <class T>
T* at(T* start, std::size_t index, Dtype dtype) {
  using Byte = std::conditional_t<std::is_const_v<T>, const std::byte, std::byte>;
  return static_cast<Byte*>(start) + index * bytes(dtype);
}

class Step {
 public:
  Step(std::span<const Layer> layers, const Rule& rule, const Kernels& kernels);

  // Whether there is enough to do for more than one thread.
  bool worth_sharing() const { return elements_ > worth_a_thread; }

  // Takes chunks until there are none left.
  void work();

 private:
  // A layer that several threads share.
  struct Shared {
    const Layer* layer;
    double* sums;
    Scalars scalars;
    std::atomic<std::size_t> next_sum = 0, summed = 0, next_pass = 0;
    std::atomic<int> ready = 0;  // the scalars are there
  };

  bool pass_one(std::size_t& open, std::size_t end);
  bool sum_one(std::size_t& unsummed);
  bool finish_batch();

  double sum(const Layer& layer, std::size_t index) const;
  void pass(const Layer& layer, const Scalars& scalars, std::size_t start, std::size_t size) const;
  Scalars advance(const Layer& layer, const double* sums) const;

  const Rule& rule_;
  const Kernels& kernels_;
  std::size_t elements_ = 0;
  std::vector<const Layer*> small_;         // largest first
  std::vector<std::size_t> batches_ = {0};  // where in it each begins, and the end
  std::atomic<std::size_t> next_batch_ = 0;
  std::vector<double> sums_;
  std::vector<Shared> shared_;  // largest first
};

Step::Step(std::span<const Layer> layers, const Rule& rule, const Kernels& kernels)
    : rule_(rule), kernels_(kernels) {
  std::vector<const Layer*> large;
  std::size_t sums = 0;
  for (const Layer& layer : layers) {
    if (layer.size == 0) continue;
    elements_ += layer.size;
    (layer.size > whole ? large : small_).push_back(&layer);
    if (layer.size > whole) sums += chunks(layer);
  }
  const auto larger = [](const Layer* x, const Layer* y) { return x->size > y->size; };
  std::stable_sort(large.begin(), large.end(), larger);
  std::stable_sort(small_.begin(), small_.end(), larger);

  sums_.resize(sums);
  shared_ = std::vector<Shared>(large.size());
  double* next = sums_.data();
  for (std::size_t i = 0; i < large.size(); ++i) {
    shared_[i].layer = large[i];
    shared_[i].sums = next;
    next += chunks(*large[i]);
  }
  std::size_t batched = 0;
  for (std::size_t i = 0; i < small_.size(); ++i) {
    batched += small_[i]->size;
    if (batched >= batch || i + 1 == small_.size()) {
      batches_.push_back(i + 1);
      batched = 0;
    }
  }
}

void Step::work() {
  std::size_t open = 0;      // the shared layers before this one have no pass left to take
  std::size_t unsummed = 0;  // ... no sum
  while (true) {
    // Passes first: what was read for the sums is still in the cache.
    if (pass_one(open, unsummed) || sum_one(unsummed) || finish_batch()) continue;
    if (open == shared_.size()) return;
    // Another thread is at its last sums.
    const std::atomic<int>& ready = shared_[open].ready;
    if (!spin_until([&] { return ready.load(std::memory_order_acquire) != 0; })) {
      ready.wait(0, std::memory_order_acquire);
    }
  }
}

bool Step::pass_one(std::size_t& open, std::size_t unsummed) {
  for (std::size_t i = open; i < shared_.size() && i <= unsummed; ++i) {
    Shared& shared = shared_[i];
    const Layer& layer = *shared.layer;
    if (shared.ready.load(std::memory_order_acquire) == 0) continue;
    const std::size_t taken = shared.next_pass.fetch_add(1, std::memory_order_relaxed);
    if (taken < chunks(layer)) {
      // Backwards: the end was read last.
      const std::size_t start = (chunks(layer) - 1 - taken) * chunk;
      pass(layer, shared.scalars, start, std::min(chunk, layer.size - start));
      return true;
    }
    if (i == open) ++open;
  }
  return false;
}

bool Step::sum_one(std::size_t& unsummed) {
  for (; unsummed < shared_.size(); ++unsummed) {
    Shared& shared = shared_[unsummed];
    const Layer& layer = *shared.layer;
    const std::size_t taken = shared.next_sum.fetch_add(1, std::memory_order_relaxed);
    if (taken >= chunks(layer)) continue;
    shared.sums[taken] = sum(layer, taken);
    // The last of them sees the sums of all others.
    if (shared.summed.fetch_add(1, std::memory_order_acq_rel) + 1 == chunks(layer)) {
      shared.scalars = advance(layer, shared.sums);
      shared.ready.store(1, std::memory_order_release);
      shared.ready.notify_all();
    }
    return true;
  }
  return false;
}

bool Step::finish_batch() {
  const std::size_t taken = next_batch_.fetch_add(1, std::memory_order_relaxed);
  if (taken + 1 >= batches_.size()) return false;
  for (std::size_t i = batches_[taken]; i < batches_[taken + 1]; ++i) {
    const Layer& layer = *small_[i];
    double sums[whole / chunk];
    for (std::size_t j = 0; j < chunks(layer); ++j) sums[j] = sum(layer, j);
    pass(layer, advance(layer, sums), 0, layer.size);
  }
  return true;
}

double Step::sum(const Layer& layer, std::size_t index) const {
  const std::size_t start = index * chunk;
  return kernels_.square_sum(layer.gradient_dtype)(at(layer.gradient, start, layer.gradient_dtype),
                                                   std::min(chunk, layer.size - start));
}

// Adds the sums, and replaces v.
Scalars Step::advance(const Layer& layer, const double* sums) const {
  double s = 0;
  for (std::size_t i = 0; i < chunks(layer); ++i) s += sums[i];
  const auto replace = [&](auto* v) {
    const Scalars result = scalars(s, *v, rule_);
    *v = static_cast<std::remove_pointer_t<decltype(v)>>(result.v);
    return result;
  };
  return layer.weight_dtype == Dtype::float64 ? replace(static_cast<double*>(layer.v))
                                              : replace(static_cast<float*>(layer.v));
}

void Step::pass(const Layer& layer, const Scalars& scalars, std::size_t start,
                std::size_t size) const {
  void* target = layer.target == nullptr ? nullptr : at(layer.target, start, layer.weight_dtype);
  const void* weights = at(layer.weights, start, layer.weight_dtype);
  if (scalars.skip) {
    const std::size_t length = size * bytes(layer.weight_dtype);
    if (target != nullptr && rule_.increment != 0) {
      std::memset(target, 0, length);
    } else if (target != nullptr && target != weights) {
      std::memcpy(target, weights, length);
    }
    return;
  }
  kernels_.linear_pass(layer.weight_dtype, layer.gradient_dtype, layer.moment_dtype)(
      target, weights, at(layer.gradient, start, layer.gradient_dtype),
      at(layer.moment, start, layer.moment_dtype), size, scalars);
}

}  // namespace

void step(std::span<const Layer> layers, const Rule& rule, const Kernels& kernels, int threads) {
  Step step(layers, rule, kernels);
  // Whether subnormal numbers count as zero is a setting of each thread: that of the caller holds.
  std::fenv_t environment;
  std::fegetenv(&environment);
  parallel(step.worth_sharing() ? threads : 1, [&] {
    std::fenv_t own;
    std::fegetenv(&own);
    std::fesetenv(&environment);
    step.work();
    std::fesetenv(&own);
  });
}

std::optional<std::pair<std::size_t, std::size_t>> overlap(std::span<const Layer> layers) {
  struct Range {
    const std::byte *begin, *end;
    std::size_t layer;
    bool written;
  };
  std::vector<Range> ranges;
  ranges.reserve(4 * layers.size());
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const Layer& layer = layers[i];
    const auto add = [&](const void* start, std::size_t size, bool written) {
      const auto* begin = static_cast<const std::byte*>(start);
      ranges.push_back({begin, begin + size, i, written});
    };
    if (layer.size == 0) continue;
    if (layer.target != nullptr) add(layer.target, layer.size * bytes(layer.weight_dtype), true);
    add(layer.moment, layer.size * bytes(layer.moment_dtype), true);
    add(layer.v, layer.weight_dtype == Dtype::float64 ? 8 : 4, true);
    add(layer.gradient, layer.size * bytes(layer.gradient_dtype), false);
  }
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& x, const Range& y) { return x.begin < y.begin; });
  // Of the ranges so far, those that reach furthest: of all, and of the written ones.
  const Range *furthest = nullptr, *written = nullptr;
  for (const Range& range : ranges) {
    const Range* other = range.written ? furthest : written;
    if (other != nullptr && other->end > range.begin) return std::pair(other->layer, range.layer);
    if (furthest == nullptr || range.end > furthest->end) furthest = &range;
    if (range.written && (written == nullptr || range.end > written->end)) written = &range;
  }
  return std::nullopt;
}

}  // namespace novograd
