// Compares the step with a plain loop in double, and runs it on many threads. The sanitizers run
// these tests, and find errors that the Python tests cannot find. Prints every failed check, and
// returns their number.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "kernels.h"
#include "pool.h"
#include "step.h"
#include "traffic.h"

using namespace novograd;

namespace {

int wrong = 0;

void expect(bool right, const std::string& what) {
  if (right) return;
  ++wrong;
  std::printf("failed: %s\n", what.c_str());
}

constexpr Dtype all_dtypes[] = {Dtype::float64, Dtype::float32, Dtype::bfloat16,
                                Dtype::float16, Dtype::int8,    Dtype::stochastic_bfloat16};
// Sizes for several threads, for several chunks of one thread, not a multiple of any vector width,
// and 0; then several layers, with and without gaps, layers of one element, and columns.
const std::vector<Grid> grids = {{1, 1, 300'001, 300'001},
                                 {1, 1, 140'000, 140'000},
                                 {1, 1, 100'003, 100'003},
                                 {1, 1, 33, 33},
                                 {1, 1, 1, 1},
                                 {1, 1, 0, 0},
                                 {1, 1, 257, 257},
                                 {1, 1, 4096, 4096},
                                 {1, 2, 140'001, 280'002},
                                 {1'501, 2, 100, 205},
                                 {50, 3, 17, 51},
                                 {1, 3'000, 1, 3'000},
                                 {100, 300, 1, 307},
                                 {150, 1'100, 1, 1'107},
                                 {1, 5, 0, 0}};
// For moments in int8, with the length of a row: chunks that end within blocks; a row for each
// layer; rows that belong to the layers in turn; and rows of all layers.
const std::vector<std::pair<Grid, std::size_t>> quantised_grids = {
    {{1, 1, 300'000, 300'000}, 1'000},
    {{1, 2, 140'001, 280'002}, 140'001},
    {{1, 1, 100'000, 100'000}, 1'000},
    {{1, 30, 300, 9'000}, 300},
    {{50, 3, 17, 51}, 17},
    {{1, 3'000, 1, 3'000}, 1},
    {{150, 1'100, 1, 1'100}, 1'100},
    {{30, 300, 1, 300}, 300},
    {{2'400, 60, 1, 60}, 480},
    {{20, 96, 27, 2'592}, 2'592},
    {{1, 1, 0, 0}, 1}};
constexpr float steps = 3;
constexpr Rule rule = {.beta1 = 0.9,
                       .keep = 0.75,
                       .mix = 0.25,
                       .first = 1,
                       .correction = 1,
                       .clip = 0,
                       .inside = 1e-8,
                       .outside = 0,
                       .power = 0.5,
                       .normalises_moment = 0,
                       .a = 0.5,
                       .b = 0.01,
                       .c = 1,
                       .d = 1,
                       .wake = 1,
                       .nesterov = 1,
                       .skip_nonfinite = 1,
                       .increment = 0};

// Heap memory of exactly the right size, so that a sanitizer finds an access beyond its end.
struct Model {
  std::vector<std::vector<std::byte>> memory;
  std::vector<std::vector<double>> squares;
  std::vector<Tensor> tensors;

  Model(Dtype weights, Dtype gradient, Dtype moment) {
    const auto make = [this](std::size_t size, Dtype dtype, unsigned seed) -> void* {
      auto& bytes_ = memory.emplace_back(size * bytes(dtype));
      for (std::size_t i = 0; i < size; ++i) {
        seed = seed * 1664525 + 1013904223;
        // 1, -1, 2 or -2: exact in every dtype.
        const bool two = seed >> 30 & 1, negative = seed >> 31;
        put(bytes_.data() + i * bytes(dtype), dtype, two, negative);
      }
      return bytes_.data();
    };
    unsigned seed = 0;
    std::vector<std::pair<Grid, std::size_t>> used = quantised_grids;
    if (moment != Dtype::int8) {
      used.clear();
      for (const Grid& grid : grids) used.emplace_back(grid, 1'000);
    }
    for (const auto& [grid, row] : used) {
      // The last piece has no gap after it.
      const std::size_t size =
          grid.run == 0 ? 0 : (grid.runs - 1) * grid.stride + grid.layers * grid.run;
      void* w = make(size, weights, ++seed);
      void* g = make(size, gradient, ++seed);
      void* m = make(size, moment, ++seed);
      void* v = memory.emplace_back((weights == Dtype::float64 ? 8 : 4) * grid.layers).data();
      tensors.push_back({grid, 1, weights, gradient, moment, w, g, m, v, w});
      Rows& rows = tensors.back().rows;
      rows = {.scales = nullptr, .row = row, .first = 3, .pitch = row + 1, .count = &steps};
      if (moment == Dtype::int8) {
        expect(has_quantised_pass(grid, row), "there is a pass for the rows");
        rows.scales =
            static_cast<float*>(make(size / row * rows.row_scales(), Dtype::float32, ++seed));
      }
    }
  }

  // After this call, the steps read the square sums from memory, and the caller must write them.
  void separate_square_sums() {
    for (Tensor& tensor : tensors) {
      tensor.squares = squares.emplace_back(tensor.grid.layers).data();
    }
  }

  static void put(std::byte* to, Dtype dtype, bool two, bool negative) {
    const double value = (two ? 2 : 1) * (negative ? -1 : 1);
    const float single = static_cast<float>(value);
    const std::uint16_t bfloat16 = (two ? 0x4000 : 0x3f80) | negative << 15;
    const std::uint16_t float16 = (two ? 0x4000 : 0x3c00) | negative << 15;
    const auto int8 = static_cast<std::int8_t>(value);
    switch (dtype) {
      case Dtype::float64: std::memcpy(to, &value, 8); break;
      case Dtype::float32: std::memcpy(to, &single, 4); break;
      case Dtype::bfloat16:
      case Dtype::stochastic_bfloat16: std::memcpy(to, &bfloat16, 2); break;
      case Dtype::float16: std::memcpy(to, &float16, 2); break;
      case Dtype::int8: std::memcpy(to, &int8, 1); break;
    }
  }
};

void all_kernels_agree_on_any_number_of_threads() {
  for (Dtype w : all_dtypes) {
    for (Dtype g : all_dtypes) {
      for (Dtype m : all_dtypes) {
        std::vector<std::vector<std::byte>> expected;
        for (const Kernels* kernels : supported_kernels()) {
          const bool quantised = m == Dtype::int8 && kernels->quantised_pass(w, g) != nullptr;
          if (!quantised && kernels->linear_pass(w, g, m) == nullptr) continue;
          for (int threads : {1, 2, 3, 8}) {
            Model model(w, g, m);
            for (int i = 0; i < 2; ++i) step(model.tensors, rule, *kernels, threads);
            if (expected.empty()) expected = model.memory;
            Model apart(w, g, m);
            apart.separate_square_sums();
            setenv("NOVOGRAD_AHEAD", "4096,2048", 1);
            for (int i = 0; i < 2; ++i) {
              square_sums(apart.tensors, *kernels, threads);
              step(apart.tensors, rule, *kernels, 1);
            }
            unsetenv("NOVOGRAD_AHEAD");
            const bool same = model.memory == expected && apart.memory == expected;
            expect(same, std::string(kernels->name) + ", dtypes " + std::to_string(int(w)) +
                             std::to_string(int(g)) + std::to_string(int(m)) + ", threads " +
                             std::to_string(threads));
          }
        }
      }
    }
  }
}

void a_step_agrees_with_a_plain_loop(double clip) {
  Rule clipped = rule;
  clipped.clip = clip;
  Model model(Dtype::float64, Dtype::float64, Dtype::float64), start = model;
  // The addresses in the copy still point into `model`; only its memory is used.
  step(model.tensors, clipped, kernels(), 3);
  for (std::size_t i = 0; i < model.tensors.size(); ++i) {
    const auto numbers = [i](const Model& of, std::size_t kind) {
      return reinterpret_cast<const double*>(of.memory[4 * i + kind].data());
    };
    const auto *w = numbers(start, 0), *g = numbers(start, 1), *m = numbers(start, 2);
    std::vector<double> weights(w, w + start.memory[4 * i].size() / 8);
    std::vector<double> moments(m, m + weights.size());
    const Grid& grid = model.tensors[i].grid;
    for (std::size_t layer = 0; layer < grid.layers; ++layer) {
      const auto each = [&](const auto& take) {
        for (std::size_t piece = 0; piece < grid.runs; ++piece) {
          for (std::size_t j = 0; j < grid.run; ++j) {
            take(piece * grid.stride + layer * grid.run + j);
          }
        }
      };
      double s = 0;
      each([&](std::size_t j) { s += g[j] * g[j]; });
      const double a = rule.a / std::sqrt(std::max(1.0, clip) * s + rule.inside);  // v is s
      each([&](std::size_t j) {
        const double push = a * g[j] + rule.b * w[j];
        moments[j] = rule.beta1 * m[j] + push;
        weights[j] = w[j] - (rule.beta1 * moments[j] + push);
      });
    }
    double error = 0;  // includes the gaps, which must not change
    for (std::size_t j = 0; j < weights.size(); ++j) {
      error = std::max({error, std::abs(numbers(model, 0)[j] - weights[j]),
                        std::abs(numbers(model, 2)[j] - moments[j])});
    }
    expect(error < 1e-13, "tensor " + std::to_string(i) + ", clip " + std::to_string(clip));
  }
}

void parts_of_one_array_do_not_overlap() {
  std::vector<float> w(300), g(300), m(300), v(2);
  const auto part = [&](std::size_t start, std::size_t run, std::size_t index) -> Tensor {
    const Dtype f = Dtype::float32;
    void* weights = w.data() + start;
    return {{10, 1, run, 30}, 1,      f, f, f, weights, g.data() + start, m.data() + start,
            v.data() + index, weights};
  };
  expect(!overlap(std::vector{part(0, 10, 0), part(10, 20, 1)}), "parts do not overlap");
  expect(overlap(std::vector{part(0, 11, 0), part(10, 20, 1)}).has_value(), "parts overlap");
}

// Callers compete for the pool; a caller that does not get it works alone.
void many_callers_at_once(Dtype moment) {
  Model expected(Dtype::float32, Dtype::float32, moment);
  for (int i = 0; i < 5; ++i) step(expected.tensors, rule, kernels(), 1);
  std::vector<std::thread> callers;
  std::vector<Model> models;
  for (int i = 0; i < 4; ++i) models.emplace_back(Dtype::float32, Dtype::float32, moment);
  for (Model& model : models) {
    callers.emplace_back([&model] {
      for (int i = 0; i < 5; ++i) step(model.tensors, rule, kernels(), 3);
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (const Model& model : models) expect(model.memory == expected.memory, "many callers");
}

void the_pool_calls_on_several_threads_and_returns_after_all() {
  for (int round = 0; round < 2000; ++round) {
    std::atomic<int> next = 0, done = 0;
    pool().run(4, [&] {
      while (next.fetch_add(1) < 16) done.fetch_add(1);
    });
    expect(done == 16, "the pool's work is not complete");
  }
}

void a_forked_child_steps() {
  const pid_t child = fork();
  if (child == 0) {
    Model model(Dtype::float32, Dtype::float32, Dtype::float32);
    step(model.tensors, rule, kernels(), 3);
    _exit(0);
  }
  int status = -1;
  waitpid(child, &status, 0);
  expect(status == 0, "a forked child");
}

void overlapping_scales_are_found() {
  Model model(Dtype::float32, Dtype::float32, Dtype::int8);
  expect(!overlap(model.tensors), "tensors in int8 do not overlap");
  model.tensors[2].rows.scales = model.tensors[0].rows.scales;
  expect(overlap(model.tensors).has_value(), "scales overlap");
}

void traffic_stays_inside() {
  std::vector<float> w(70'001, 1), g(w), m(w);
  for (int threads : {1, 2, 7}) traffic(w.data(), g.data(), m.data(), w.size(), threads);
}

}  // namespace

// The argument "threads" selects only the tests of threads: ThreadSanitizer is slow, and does not
// allow threads in a forked child.
int main(int count, char** arguments) {
  const bool everything = count == 1 || std::string(arguments[1]) != "threads";
  for (double clip : {0.0, 0.5, 4.0}) a_step_agrees_with_a_plain_loop(clip);
  parts_of_one_array_do_not_overlap();
  overlapping_scales_are_found();
  for (Dtype moment : {Dtype::float32, Dtype::int8}) many_callers_at_once(moment);
  the_pool_calls_on_several_threads_and_returns_after_all();
  traffic_stays_inside();
  if (everything) {
    all_kernels_agree_on_any_number_of_threads();
    a_forked_child_steps();
  }
  std::printf("%s\n", wrong == 0 ? "all checks passed" : "some checks failed");
  return wrong;
}
