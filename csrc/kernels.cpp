// The loops, compiled once for each instruction set. NOVOGRAD_KERNELS is the name of the set.
//
// Everything except the table at the end has internal linkage. The linker merges functions with
// external linkage, including inline functions and templates of the standard library. A machine
// could then get code for a newer instruction set than it has. So this file does not call the
// standard library either.
//
// All instruction sets give the same bits. A sum has a fixed number of lanes, in float64, where
// squares of shorter types are exact; and -ffp-contract=off forbids fused multiply-add.
#include "kernels.h"

#include <cstring>
#include <type_traits>

#include "advance.h"
#include "blocks_avx2.h"
#include "formats.h"
#include "prefetch.h"
#include "rounding.h"
#include "sums_avx2.h"

namespace novograd {
namespace {

constexpr std::size_t lanes = 32;

void add_square(double& sum, double x) { sum += x * x; }

// Two bfloat16 in one word. Converting them needs no shuffles: one is the upper half of the word,
// the other is shifted there.
struct BFloat16Pair {
  BFloat16 halves[2];
};

std::uint32_t word(const BFloat16Pair& pair) {
  std::uint32_t word;
  std::memcpy(&word, &pair, sizeof word);
  return word;
}

// Adds the squares of most of a long array to lanes, and returns the number of these elements. It
// reads several streams of the same length: a core reads them faster than one. Each stream has its
// own lanes.
template <class G>
std::size_t add_streams(const G* g, std::size_t size, double* sums, std::size_t ahead) {
  constexpr std::size_t streams = 4, width = lanes / streams, step = 2 * width;
  const std::size_t length = size / (streams * step) * step;
  double lane[lanes];
  for (std::size_t j = 0; j < lanes; ++j) lane[j] = sums[j];
  for (std::size_t i = 0; i < length; i += step) {
    for (std::size_t k = 0; k < streams; ++k) {
      const G* next = g + k * length + i;
      prefetch(next, step, ahead / streams);
      for (std::size_t j = 0; j < width; ++j) {
        add_square(lane[k * width + j], load(next[j]));
        add_square(lane[k * width + j], load(next[j + width]));
      }
    }
  }
  for (std::size_t j = 0; j < lanes; ++j) sums[j] = lane[j];
  return streams * length;
}

// If `ahead` is 0, it asks for memory that it loads anyway: this costs less than a branch.
template <class G>
void add_squares(const G* g, std::size_t size, double* sums, std::size_t ahead) {
  double lane[lanes];
  for (std::size_t j = 0; j < lanes; ++j) lane[j] = sums[j];
  std::size_t i = 0;
  for (; i + lanes <= size; i += lanes) {
    prefetch(g + i, lanes, ahead);
    for (std::size_t j = 0; j < lanes; ++j) add_square(lane[j], load(g[i + j]));
  }
  for (std::size_t j = 0; i < size; ++i, ++j) add_square(lane[j], load(g[i]));
  for (std::size_t j = 0; j < lanes; ++j) sums[j] = lane[j];
}

// The lanes of lower and of upper halves have their own loops, which compilers vectorise.
void add_squares(const BFloat16* g, std::size_t size, double* sums, std::size_t ahead) {
  constexpr std::size_t half = lanes / 2;
  const auto* pairs = reinterpret_cast<const BFloat16Pair*>(g);
  double low[half], high[half];
  for (std::size_t j = 0; j < half; ++j) low[j] = sums[j], high[j] = sums[j + half];
  std::size_t i = 0;
  for (; i + half <= size / 2; i += half) {
    prefetch(pairs + i, half, ahead);
    for (std::size_t j = 0; j < half; ++j) {
      add_square(low[j], from_bits(word(pairs[i + j]) << 16));
    }
    for (std::size_t j = 0; j < half; ++j) {
      add_square(high[j], from_bits(word(pairs[i + j]) & 0xffff0000));
    }
  }
  for (std::size_t j = 0; j < half; ++j) sums[j] = low[j], sums[j + half] = high[j];
  i *= 2;
  for (std::size_t j = 0; i < size; ++i, ++j) add_square(sums[j], load(g[i]));
}

// Adds up the lanes; `width` is a power of two.
template <std::size_t width>
double total(const double* sums) {
  if constexpr (width == 1) {
    return sums[0];
  } else {
    double half[width / 2];
    for (std::size_t j = 0; j < width / 2; ++j) half[j] = sums[j] + sums[j + width / 2];
    return total<width / 2>(half);
  }
}

// The same for a width that compilers do not know.
double total(double* sums, std::size_t width) {
  for (std::size_t half = width / 2; half > 0; half /= 2) {
    for (std::size_t j = 0; j < half; ++j) sums[j] += sums[j + half];
  }
  return sums[0];
}

// For fewer elements than lanes: gives the same bits, without lanes that would only add zeros.
template <class G>
double short_square_sum(const G* g, std::size_t size) {
  double sums[lanes];
  std::size_t width = 1;
  while (width < size) width *= 2;
  for (std::size_t j = 0; j < width; ++j) {
    const double x = j < size ? load(g[j]) : 0;
    sums[j] = x * x;
  }
  return total(sums, width);
}

// Replaces `m`, and returns the new element of the target. X may be a register of several elements,
// and S too, with the scalars of each.
template <class X, class C, class S>
X updated(X w, X g, X& m, C beta1, S a, S b, C c, S d, S ahead) {
  const X push = a * g + b * w;
  m = beta1 * m + push;
  return c * w - (d * m + ahead * push);
}

// The update of the elements of a layer, with scalars in the type C of the computation.
template <class C>
struct LayerUpdate {
  C beta1, a, b, c, d, ahead;

  explicit LayerUpdate(const Scalars& s)
      : beta1(static_cast<C>(s.beta1)),
        a(static_cast<C>(s.a)),
        b(static_cast<C>(s.b)),
        c(static_cast<C>(s.c)),
        d(static_cast<C>(s.d)),
        ahead(static_cast<C>(s.ahead)) {}

  template <class X>
  X operator()(std::size_t, X w, X g, X& m) const {
    return updated(w, g, m, beta1, a, b, c, d, ahead);
  }
};

// Returns the elements from `x` that fill a register, or one.
template <class X, class C>
X elements(const C* x) {
  X found;
  std::memcpy(&found, x, sizeof found);
  return found;
}

// The scalars of up to `capacity` elements of a row.
template <class C, std::size_t capacity>
struct RowScalars {
  C beta1, c;
  C a[capacity], b[capacity], d[capacity], ahead[capacity];

  // Each element is a layer; `s` has the scalars of all groups.
  RowScalars(const GroupScalars* s, std::size_t layers)
      : beta1(static_cast<C>(s->beta1)), c(static_cast<C>(s->c)) {
    for (std::size_t first = 0; first < layers; first += group, ++s) {
      const std::size_t n = layers - first < group ? layers - first : group;
      for (std::size_t i = 0; i < n; ++i) {
        a[first + i] = static_cast<C>(s->a[i]);
        b[first + i] = static_cast<C>(s->b[i]);
        d[first + i] = static_cast<C>(s->d[i]);
        ahead[first + i] = static_cast<C>(s->ahead[i]);
      }
    }
  }

  // Gives each layer `run` neighbours, and begins again after the last layer.
  void spread(std::size_t layers, std::size_t run, std::size_t size) {
    for (std::size_t i = size; i-- > 0;) {  // backwards: a layer is never after its elements
      const std::size_t layer = i / run % layers;
      a[i] = a[layer];
      b[i] = b[layer];
      d[i] = d[layer];
      ahead[i] = ahead[layer];
    }
  }
};

// The update of the elements of a row from element `first`, with scalars of their own.
template <class C>
struct RowUpdate {
  C beta1, c;
  const C *a, *b, *d, *ahead;

  template <std::size_t capacity>
  explicit RowUpdate(const RowScalars<C, capacity>& s, std::size_t first = 0)
      : beta1(s.beta1),
        c(s.c),
        a(s.a + first),
        b(s.b + first),
        d(s.d + first),
        ahead(s.ahead + first) {}

  template <class X>
  X operator()(std::size_t i, X w, X g, X& m) const {
    return updated(w, g, m, beta1, elements<X>(a + i), elements<X>(b + i), c, elements<X>(d + i),
                   elements<X>(ahead + i));
  }
};

// The same, if elements whose number in `taken` is 0 do not change.
template <class C>
struct PartialUpdate {
  RowUpdate<C> row;
  const C* taken;
  bool increment;

  C operator()(std::size_t i, C w, C g, C& m) const {
    C new_m = m;
    const C new_w = row(i, w, g, new_m), old_w = increment ? 0 : w;
    m = taken[i] != 0 ? new_m : m;
    return taken[i] != 0 ? new_w : old_w;
  }
};

// `target` may be `weights` or `gradient`: each element is read before it is written. Without
// `write`, only the momentum buffer changes.
template <bool write, class C, class W, class G, class M, template <class> class Update>
void pass(W* target, const W* weights, const G* gradient, M* moment, std::size_t size,
          Update<C> update) {
  NOVOGRAD_INDEPENDENT
  for (std::size_t i = 0; i < size; ++i) {
    C m = load(moment[i]);
    const C w = update(i, load(weights[i]), load(gradient[i]), m);
    store(moment[i], m);
    if constexpr (write) store(target[i], w);
  }
}

template <bool write>
void pass_pairs(BFloat16Pair* target, const BFloat16Pair* weights, const BFloat16Pair* gradient,
                BFloat16Pair* moment, std::size_t size, LayerUpdate<float> update) {
  constexpr std::uint32_t upper = 0xffff0000;
  const auto join = [](float low, float high) {
    return round_to_bfloat16(low) >> 16 | (round_to_bfloat16(high) & upper);
  };
  NOVOGRAD_INDEPENDENT
  for (std::size_t i = 0; i < size; ++i) {
    const std::uint32_t w = word(weights[i]), g = word(gradient[i]), m = word(moment[i]);
    float m0 = from_bits(m << 16), m1 = from_bits(m & upper);
    const float w0 = update(i, from_bits(w << 16), from_bits(g << 16), m0);
    const float w1 = update(i, from_bits(w & upper), from_bits(g & upper), m1);
    const std::uint32_t new_m = join(m0, m1), new_w = join(w0, w1);
    std::memcpy(&moment[i], &new_m, sizeof new_m);
    if constexpr (write) std::memcpy(&target[i], &new_w, sizeof new_w);
  }
}

template <class G>
double square_sum(const void* gradient, std::size_t size, std::size_t ahead) {
  const G* g = static_cast<const G*>(gradient);
  typename Buffered<G>::type buffer[block];
  if (size < lanes) return short_square_sum(widen(g, buffer, size), size);
  // In short arrays, streams only keep the processor from seeing that the memory is read in order.
  constexpr std::size_t shortest_in_streams = 1 << 14;
  if constexpr (sums_in_registers<G>) {
    if (size < shortest_in_streams) return sum_in_registers<lanes>(g, size, ahead);
  }
  double sums[lanes] = {};
  std::size_t i = 0;
  if constexpr (std::is_floating_point_v<G>) {
    if (size >= shortest_in_streams) i = add_streams(g, size, sums, ahead);
  }
  const std::size_t piece = buffered<G> ? block : size;
  for (; i < size; i += piece) {
    const std::size_t n = size - i < piece ? size - i : piece;
    const auto* wide = widen(g + i, buffer, n);
    if constexpr (buffered<G>) prefetch(g + i, n, ahead);
    add_squares(wide, n, sums, buffered<G> ? 0 : ahead);
  }
  return total<lanes>(sums);
}

template <class G>
void column_sums(const void* gradient, const Columns& shape, double* s) {
  const auto [rows, columns, stride] = shape;
  const G* g = static_cast<const G*>(gradient);
  typename Buffered<G>::type buffer[block];
  const std::size_t piece = buffered<G> ? block : columns;
  for (std::size_t i = 0; i < columns; ++i) s[i] = 0;
  for (std::size_t row = 0; row < rows; ++row, g += stride) {
    for (std::size_t first = 0; first < columns; first += piece) {
      const std::size_t n = columns - first < piece ? columns - first : piece;
      const auto* wide = widen(g + first, buffer, n);
      NOVOGRAD_INDEPENDENT
      for (std::size_t i = 0; i < n; ++i) add_square(s[first + i], load(wide[i]));
    }
  }
}

template <class V>
void advance(const Rule& rule, double scale, void* v, std::size_t layers, GroupScalars& scalars) {
  const Advance<V> one(rule, scale);
  V* vs = static_cast<V*>(v);
  NOVOGRAD_INDEPENDENT
  for (std::size_t i = 0; i < layers; ++i) one(scalars, i, vs[i]);
  one.common(scalars);
}

template <class W>
constexpr bool at_random = std::is_same_v<W, StochasticBFloat16>;

// Does a piece of a pass; if a type is buffered, of at most `block` elements.
template <bool write, class W, class G, class M, class Update>
void pass_piece(W* target, const W* weights, const G* gradient, M* moment, std::size_t size,
                const Update& update, const Place& place) {
  if constexpr (std::is_same_v<W, BFloat16> && std::is_same_v<G, W> && std::is_same_v<M, W> &&
                std::is_same_v<Update, LayerUpdate<float>>) {
    const auto pairs = [](auto* x) { return reinterpret_cast<BFloat16Pair*>(x); };
    const auto const_pairs = [](auto* x) { return reinterpret_cast<const BFloat16Pair*>(x); };
    pass_pairs<write>(pairs(target), const_pairs(weights), const_pairs(gradient), pairs(moment),
                      size / 2, update);
    if (size % 2 != 0) {
      const std::size_t last = size - 1;
      pass<write>(target + last, weights + last, gradient + last, moment + last, 1, update);
    }
  } else if constexpr (buffered<W> || buffered<G> || buffered<M>) {
    typename Buffered<W>::type w[block], new_w[block];
    typename Buffered<G>::type g[block];
    typename Buffered<M>::type m[block];
    const auto* old = widen(weights, w, size);
    const auto* wide_gradient = widen(gradient, g, size);
    if constexpr (buffered<M>) {
      widen(moment, m, size);
      pass<write>(new_w, old, wide_gradient, m, size, update);
      narrow(moment, m, size);
    } else if constexpr (buffered<W>) {
      pass<write>(new_w, old, wide_gradient, moment, size, update);
    } else {
      pass<write>(target, old, wide_gradient, moment, size, update);
    }
    if constexpr (write && at_random<W>) {
      round_at_random(target, new_w, size, place.key, place.first);
    } else if constexpr (write && buffered<W>) {
      narrow(target, new_w, size);
    }
  } else {
    pass<write>(target, weights, gradient, moment, size, update);
  }
}

// Returns the place of a piece that begins at element `start` of the tensor. Random bits are made
// for neighbours in the whole tensor, so the piece may become shorter: it must end with the row.
template <class W>
Place place_of(std::size_t start, std::size_t& size, const Rows& rows) {
  if constexpr (at_random<W>) {
    const std::size_t left = rows.row - start % rows.row;
    size = size < left ? size : left;
    return {step_key(*rows.count, for_weights), rows.number(start)};
  } else {
    return {};
  }
}

template <bool write, class W, class G, class M, class Update>
void pass_all(W* target, const W* weights, const G* gradient, M* moment, std::size_t size,
              const Update& update, std::size_t start, const Rows& rows, std::size_t ahead) {
  const bool in_blocks = buffered<W> || buffered<G> || buffered<M> || ahead != 0;
  const std::size_t piece = in_blocks ? block : size;
  for (std::size_t i = 0, n; i < size; i += n) {
    n = size - i < piece ? size - i : piece;
    const Place place = place_of<W>(start + i, n, rows);
    if (ahead != 0) {
      prefetch(weights + i, n, ahead);
      prefetch(gradient + i, n, ahead);
      prefetch(moment + i, n, ahead);
    }
    W* to = target;
    if constexpr (write) to += i;
    pass_piece<write>(to, weights + i, gradient + i, moment + i, n, update, place);
  }
}

template <class W, class G, class M, class C>
void linear_pass(void* target, const void* weights, const void* gradient, void* moment,
                 std::size_t start, std::size_t size, const Rows& rows, const Scalars& scalars,
                 std::size_t ahead) {
  const auto run = [&](auto write) {
    pass_all<write()>(static_cast<W*>(target), static_cast<const W*>(weights),
                      static_cast<const G*>(gradient), static_cast<M*>(moment), size,
                      LayerUpdate<C>(scalars), start, rows, ahead);
  };
  target == nullptr ? run(std::false_type()) : run(std::true_type());
}

#if defined(__AVX2__) && !defined(__AVX512F__)
// Otherwise the function below would do the work of blocks_avx2.h, and only take longer.
static_assert(UpdatesRegisters<float, float, LayerUpdate<float>>);
static_assert(UpdatesRegisters<BFloat16, BFloat16, LayerUpdate<float>>);
static_assert(UpdatesRegisters<float, float, RowUpdate<float>>);
static_assert(UpdatesRegisters<BFloat16, BFloat16, RowUpdate<float>>);
#endif

// A block of a momentum buffer in int8, between its pass and its rounding.
template <class C>
struct UnroundedBlock {
  alignas(64) C m[quantised_block];
  std::int8_t* moment;
  C inverse;
  std::uint64_t first;
  std::size_t size;
};

// Does the pass over a block, and writes its new moments to `m`. Returns the largest magnitude of
// these.
template <class W, class G, class C, class Size, class Update>
C pass_block(W* target, const W* weights, const G* gradient, C* m, const std::int8_t* q, Size size,
             float scale, const Update& update, const Place& place, const QuantisedAhead& ahead) {
  if (ahead.state != 0) {
    prefetch(weights, size, ahead.state);
    prefetch(gradient, size, ahead.gradient);
    prefetch(q, size, ahead.state);
  }
  dequantise(m, q, size, scale);
  pass_piece<true>(target, weights, gradient, m, size, update, place);
  return largest<C>(m, size, 0);
}

// The same with the new scale. The rounding is not done yet.
template <class W, class G, class C, class Size, class Update>
void scale_block(W* target, const W* weights, const G* gradient, float& scale,
                 UnroundedBlock<C>& unrounded, Size size, const Update& update,
                 std::uint32_t weights_key, const QuantisedAhead& ahead) {
  const BlockScale<C> now(pass_block(target, weights, gradient, unrounded.m, unrounded.moment, size,
                                     scale, update, Place{weights_key, unrounded.first}, ahead));
  scale = now.scale;
  unrounded.inverse = now.inverse;
}

template <class C, class Size>
void round_block(const UnroundedBlock<C>& unrounded, Size size, std::uint32_t key) {
  quantise(unrounded.moment, unrounded.m, size, unrounded.inverse, key, unrounded.first);
}

// The same for shorter blocks. They have their own copies of all loops, since compilers unroll
// those of whole blocks, whose size they know.
template <class W, class G, class C, class Update>
[[gnu::noinline]] void short_block_pass(W* target, const W* weights, const G* gradient,
                                        float& scale, UnroundedBlock<C>& unrounded,
                                        const Update& update, std::uint32_t weights_key,
                                        const QuantisedAhead& ahead) {
  scale_block(target, weights, gradient, scale, unrounded, unrounded.size, update, weights_key,
              ahead);
}

template <class C>
[[gnu::noinline]] void round_short_block(const UnroundedBlock<C>& unrounded, std::uint32_t key) {
  round_block(unrounded, unrounded.size, key);
}

// Passes over blocks of the arrays of a tensor. A block is rounded after the pass over the next
// one. So the processor need not wait for the largest element, on which the rounding depends.
template <class W, class G, class C>
class BlockPasses {
 public:
  BlockPasses(void* target, const void* weights, const void* gradient, std::int8_t* moment,
              float count, const QuantisedAhead& ahead)
      : target_(static_cast<W*>(target)),
        weights_(static_cast<const W*>(weights)),
        gradient_(static_cast<const G*>(gradient)),
        moment_(moment),
        moment_key_(step_key(count, for_moment)),
        weights_key_(step_key(count, for_weights)),
        ahead_(ahead) {}

  // Does the pass over the block of elements from `i`. The first one has the number `first` in the
  // whole tensor.
  template <class Update>
  void pass(std::size_t i, std::size_t size, std::uint64_t first, float& scale,
            const Update& update) {
    now_->moment = moment_ + i;
    now_->first = first;
    now_->size = size;
    if (size == whole) {
      scale_block(target_ + i, weights_ + i, gradient_ + i, scale, *now_, whole, update,
                  weights_key_, ahead_);
    } else {
      short_block_pass(target_ + i, weights_ + i, gradient_ + i, scale, *now_, update, weights_key_,
                       ahead_);
    }
    round_last();
    last_ = now_;
    now_ = now_ == blocks_ ? blocks_ + 1 : blocks_;
  }

  // Rounds the block of the last pass.
  void round_last() {
    if (last_ == nullptr) return;
    last_->size == whole ? round_block(*last_, whole, moment_key_)
                         : round_short_block(*last_, moment_key_);
  }

 private:
  static constexpr std::integral_constant<std::size_t, quantised_block> whole = {};

  W* target_;
  const W* weights_;
  const G* gradient_;
  std::int8_t* moment_;
  std::uint32_t moment_key_, weights_key_;
  QuantisedAhead ahead_;
  UnroundedBlock<C> blocks_[2];
  UnroundedBlock<C>*now_ = blocks_, *last_ = nullptr;
};

template <class W, class G, class C>
[[gnu::flatten]] void quantised_pass(void* target, const void* weights, const void* gradient,
                                     std::int8_t* moment, std::size_t start, std::size_t size,
                                     const Rows& rows, const Scalars& scalars,
                                     const QuantisedAhead& ahead) {
  BlockPasses<W, G, C> blocks(target, weights, gradient, moment, *rows.count, ahead);
  const LayerUpdate<C> update(scalars);
  std::size_t row = start / rows.row, column = start % rows.row;
  float* scale = rows.scales + row * rows.row_scales() + column / quantised_block;
  for (std::size_t i = 0; i < size; ++scale) {
    const std::size_t left = rows.row - column, n = left < quantised_block ? left : quantised_block;
    blocks.pass(i, n, rows.first + row * rows.pitch + column, *scale, update);
    i += n;
    column += n;
    if (column == rows.row) ++row, column = 0;
  }
  blocks.round_last();
}

template <class W, class G, class C>
[[gnu::flatten]] void shared_block_pass(void* target, const void* weights, const void* gradient,
                                        std::int8_t* moment, const SharedBlocks& shape,
                                        const Rows& rows, const GroupScalars* scalars) {
  constexpr std::size_t capacity = longest_shared + quantised_block;
  BlockPasses<W, G, C> blocks(target, weights, gradient, moment, *rows.count, {});
  // A block that begins in one period may end in the next one.
  const std::size_t period = shape.layers * shape.run, most = period + quantised_block;
  const std::size_t size = shape.columns < most ? shape.columns : most;
  RowScalars<C, capacity> all(scalars, shape.layers);
  if (size > shape.layers) all.spread(shape.layers, shape.run, size);
  C taken[capacity];
  if (shape.skips) {
    for (std::size_t i = 0; i < size; ++i) {
      const std::size_t layer = i / shape.run % shape.layers;
      taken[i] = finite(scalars[layer / group].s[layer % group]);
    }
  }
  const auto any_taken = [&](std::size_t first, std::size_t n) {
    C any = 0;
    for (std::size_t i = first; i < first + n; ++i) any += taken[i];
    return any != 0;
  };
  for (std::size_t j = 0; j < shape.rows; ++j) {
    const std::size_t row = shape.first_row + j;
    const std::uint64_t number = rows.first + row * rows.pitch + shape.start;
    float* scale = rows.scales + row * rows.row_scales() + shape.start / quantised_block;
    for (std::size_t column = 0; column < shape.columns; column += quantised_block, ++scale) {
      const std::size_t left = shape.columns - column, i = j * rows.row + column;
      const std::size_t n = left < quantised_block ? left : quantised_block;
      const RowUpdate<C> update(all, column % period);
      if (!shape.skips) {
        blocks.pass(i, n, number + column, *scale, update);
      } else if (any_taken(column % period, n)) {
        const PartialUpdate<C> partial = {update, taken + column % period, shape.increment};
        blocks.pass(i, n, number + column, *scale, partial);
      } else {
        W* to = static_cast<W*>(target) + i;
        const W* from = static_cast<const W*>(weights) + i;
        for (std::size_t k = 0; k < n; ++k) to[k] = shape.increment ? W{} : from[k];
      }
    }
  }
  blocks.round_last();
}

template <class W, class G, class M, class C>
void column_pass(void* target, const void* weights, const void* gradient, void* moment,
                 std::size_t start, const Columns& shape, const Rows& numbered,
                 const GroupScalars* scalars) {
  const auto [rows, columns, stride] = shape;
  const RowScalars<C, most_columns> all(scalars, columns);
  const std::size_t piece = buffered<W> || buffered<G> || buffered<M> ? block : columns;
  const auto run = [&](auto write) {
    for (std::size_t row = 0; row < rows; ++row) {
      for (std::size_t first = 0, n; first < columns; first += n) {
        const std::size_t i = row * stride + first;
        n = columns - first < piece ? columns - first : piece;
        const Place place = place_of<W>(start + i, n, numbered);
        pass_piece<write()>(write() ? static_cast<W*>(target) + i : nullptr,
                            static_cast<const W*>(weights) + i, static_cast<const G*>(gradient) + i,
                            static_cast<M*>(moment) + i, n, RowUpdate<C>(all, first), place);
      }
    }
  };
  target == nullptr ? run(std::false_type()) : run(std::true_type());
}

// -- choice of the loop for dtypes ---------------------------------------------------------------

SquareSum choose_square_sum(Dtype gradient) {
  switch (gradient) {
    case Dtype::float64: return square_sum<double>;
    case Dtype::float32: return square_sum<float>;
    case Dtype::bfloat16: return square_sum<BFloat16>;
    case Dtype::float16: return square_sum<Float16>;
    default: return nullptr;
  }
}

ColumnSums choose_column_sums(Dtype gradient) {
  switch (gradient) {
    case Dtype::float64: return column_sums<double>;
    case Dtype::float32: return column_sums<float>;
    case Dtype::bfloat16: return column_sums<BFloat16>;
    case Dtype::float16: return column_sums<Float16>;
    default: return nullptr;
  }
}

AdvanceGroup choose_advance(Dtype weights) {
  return weights == Dtype::float64 ? advance<double> : advance<float>;
}

struct OfLayers {
  template <class W, class G, class M, class C>
  static constexpr LinearPass pass = linear_pass<W, G, M, C>;
};

struct OfColumns {
  template <class W, class G, class M, class C>
  static constexpr ColumnPass pass = column_pass<W, G, M, C>;
};

struct OfBlocks {
  template <class W, class G, class, class C>
  static constexpr QuantisedPass pass = quantised_pass<W, G, C>;
};

struct OfSharedBlocks {
  template <class W, class G, class, class C>
  static constexpr SharedBlockPass pass = shared_block_pass<W, G, C>;
};

template <class Of>
using PassOf = std::remove_const_t<decltype(Of::template pass<float, float, float, float>)>;

template <class Of, class W, class M>
PassOf<Of> choose_gradient(Dtype gradient) {
  switch (gradient) {
    case Dtype::float32: return Of::template pass<W, float, M, float>;
    case Dtype::bfloat16: return Of::template pass<W, BFloat16, M, float>;
    case Dtype::float16: return Of::template pass<W, Float16, M, float>;
    default: return nullptr;
  }
}

template <class Of, class M>
PassOf<Of> choose_weights(Dtype weights, Dtype gradient) {
  switch (weights) {
    case Dtype::float64:
      return gradient == weights ? Of::template pass<double, double, M, double> : nullptr;
    case Dtype::float32: return choose_gradient<Of, float, M>(gradient);
    case Dtype::bfloat16: return choose_gradient<Of, BFloat16, M>(gradient);
    case Dtype::float16: return choose_gradient<Of, Float16, M>(gradient);
    case Dtype::stochastic_bfloat16: return choose_gradient<Of, StochasticBFloat16, M>(gradient);
    default: return nullptr;
  }
}

template <class Of>
PassOf<Of> choose_pass(Dtype weights, Dtype gradient, Dtype moment) {
  switch (moment) {
    case Dtype::float64: {
      const bool alike = weights == moment && gradient == moment;
      return alike ? Of::template pass<double, double, double, double> : nullptr;
    }
    case Dtype::float32:
      return weights == Dtype::float64 ? nullptr : choose_weights<Of, float>(weights, gradient);
    case Dtype::bfloat16: return choose_weights<Of, BFloat16>(weights, gradient);
    case Dtype::float16:
      return weights == moment ? choose_gradient<Of, Float16, Float16>(gradient) : nullptr;
    default: return nullptr;
  }
}

QuantisedPass choose_quantised_pass(Dtype weights, Dtype gradient) {
  return choose_weights<OfBlocks, std::int8_t>(weights, gradient);
}

SharedBlockPass choose_shared_block_pass(Dtype weights, Dtype gradient) {
  return choose_weights<OfSharedBlocks, std::int8_t>(weights, gradient);
}

}  // namespace

#define NOVOGRAD_STRING(x) #x
#define NOVOGRAD_NAME(x) NOVOGRAD_STRING(x)
extern const Kernels NOVOGRAD_KERNELS;
const Kernels NOVOGRAD_KERNELS = {
    .name = NOVOGRAD_NAME(NOVOGRAD_KERNELS),
    .square_sum = choose_square_sum,
    .column_sums = choose_column_sums,
    .linear_pass = choose_pass<OfLayers>,
    .quantised_pass = choose_quantised_pass,
    .shared_block_pass = choose_shared_block_pass,
    .column_pass = choose_pass<OfColumns>,
    .advance = choose_advance,
};

}  // namespace novograd
