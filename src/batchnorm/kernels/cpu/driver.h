// Who does what: fixed blocks of elements for sums, tasks for threads, and the order of the passes.
//
// Sums are taken over blocks whose bounds depend on the shape alone, and merged in the order of the blocks; hence the same
// bits for any number of threads. Two orders of the passes, with the same blocks and so the same bits:
//   by channel   (planes) a thread sums a few channels and maps them while they are in its cache
//   in phases    all sums, then all elements in the order of memory; for lanes, and where channels are few or huge
#pragma once
#include <algorithm>
#include <memory>
#include <vector>
#include <torch/csrc/stable/c/shim.h>
#include "problem.h"

constexpr int64_t kGrain = 32768;      // elements below which a second thread does not pay
constexpr int64_t kPlaneBlock = 4096;  // most positions in a block of planes: what its lanes may sum in float
constexpr int64_t kLaneBlock = 256,
                  kMostLaneBlocks = 64;  // positions in a block of lanes, unless there would be too many
constexpr int64_t kShortRows = 64;       // most samples in a block of planes: short rows all fall on the same few lanes
constexpr int64_t kCacheBytes = 384 << 10;  // what a group of small channels may take of the second-level cache
constexpr int64_t kLargeChannelBytes = 12
                                       << 20;  // a channel that will have left every cache when the second pass comes

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t threads() {
  uint32_t n = 1;
  torch_get_num_threads(&n);
  return n;
}
// f(begin, end) over 0 .. n, on torch's own threads
template <class F> void parallel(int64_t n, int64_t elements_each, const F& f) {
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, elements_each));
  if (n <= grain) return f(int64_t{0}, n);
  torch_parallel_for(0, n, grain, [](int64_t a, int64_t b, void* g) { (*(const F*)g)(a, b); }, (void*)&f);
}

// The samples of group g are first[g] .. first[g + 1], in `order` where the groups are given by index.
struct Groups {
  std::vector<int64_t> first, order;
  explicit Groups(Problem& p) : first(p.groups + 1, p.N) {
    if (p.index && p.groups > 1) {
      std::fill(first.begin(), first.end(), 0);
      for (int64_t n = 0; n < p.N; n++) first[p.index[n] + 1]++;
      for (int64_t g = 0; g < p.groups; g++) first[g + 1] += first[g];
      std::vector<int64_t> next(first.begin(), first.end() - 1);
      order.resize(p.N);
      for (int64_t n = 0; n < p.N; n++) order[next[p.index[n]]++] = n;
      p.order = order.data();
    } else {
      for (int64_t g = 0; g < p.groups; g++) first[g] = std::min(g * p.block, p.N);
    }
  }
  // how many real positions group g has
  int64_t count(const Problem& p, int64_t g) const {
    if (!p.mask) return (first[g + 1] - first[g]) * p.L;
    int64_t real = 0;
    for (int64_t j = first[g]; j < first[g + 1]; j++)
      for (int64_t i = 0, at = p.sample(j) * p.L; i < p.L; i++) real += p.mask[at + i] != 0;
    return real;
  }
  // up to 16 real positions spread over group g, for a guess of its mean
  int64_t places(const Problem& p, int64_t g, int64_t count, int64_t (*out)[2]) const {
    const int64_t all = (first[g + 1] - first[g]) * p.L, wanted = std::clamp<int64_t>(count / 16, 1, 16);
    int64_t found = 0, at = -1;
    for (int64_t k = 0; k < wanted; k++) {
      at = std::max(at + 1, (2 * k + 1) * (all / wanted) / 2);
      while (at < all && p.mask && !p.mask[p.sample(first[g] + at / p.L) * p.L + at % p.L]) at++;
      if (at >= all) break;
      out[found][0] = p.sample(first[g] + at / p.L), out[found++][1] = at % p.L;
    }
    for (at = 0; !found && at < all; at++)  // the few real ones lie before the first place tried
      if (p.mask[p.sample(first[g] + at / p.L) * p.L + at % p.L])
        out[found][0] = p.sample(first[g] + at / p.L), out[found++][1] = at % p.L;
    return found;
  }
};

// Whole samples where they are short, parts of one where they are long; never across groups.
struct Blocks {
  const Problem& p;
  const Groups& groups;
  int64_t samples, parts, part;  // samples in a block; parts of a sample, positions in a part
  std::vector<int64_t> first;    // the first block of each group
  Blocks(const Problem& p, const Groups& groups) : p(p), groups(groups), first(p.groups + 1, 0) {
    const int64_t size = p.lanes ? std::max(kLaneBlock, ceil_div(p.N * p.L, kMostLaneBlocks)) : kPlaneBlock;
    const int64_t most = p.lanes ? size : kShortRows;
    samples = p.L < size ? std::min(most, size / std::max<int64_t>(1, p.L)) : 1;
    parts = p.L > size ? ceil_div(p.L, size) : 1;
    part = parts > 1 ? size : p.L;
    for (int64_t g = 0; g < p.groups; g++)
      first[g + 1] = first[g] + ceil_div(groups.first[g + 1] - groups.first[g], samples) * parts;
  }
  int64_t count() const { return first[p.groups]; }
  Tile tile(int64_t g, int64_t b, int64_t c0, int64_t c1) const {
    const int64_t k = b - first[g], j = groups.first[g] + k / parts * samples, i = k % parts * part;
    return {j, std::min(j + samples, groups.first[g + 1]), i, std::min(i + part, p.L), c0, c1};
  }
};

// The map over all elements, in the order of memory.
template <class Map> void in_memory_order(const Problem& p, Map map) {
  if (!p.elements()) return;
  constexpr int64_t kLongRow = 1 << 16;
  if (p.lanes)
    return parallel(p.N * p.L, p.C, [&](int64_t a, int64_t b) {
      for (int64_t end; a < b; a = end) {
        const int64_t j = a / p.L;
        end = std::min(b, (j + 1) * p.L);
        map(p, Tile{j, j + 1, a - j * p.L, end - j * p.L, 0, p.C});
      }
    });
  const int64_t parts = ceil_div(p.L, kLongRow);
  parallel(p.N * p.C * parts, p.L / parts, [&](int64_t a, int64_t b) {
    for (int64_t end; a < b; a = end) {
      const int64_t j = a / (p.C * parts), u = a - j * p.C * parts, c = u / parts, i = u % parts * kLongRow;
      end = parts == 1 ? std::min(b, (j + 1) * p.C) : a + 1;
      map(p, Tile{j, j + 1, i, std::min(i + kLongRow, p.L), c, parts == 1 ? c + end - a : c + 1});
    }
  });
}

// Sums over `sums`, then `finish`, then the map over `maps` (null: none).
//   start(g, c0, c1)                    before a range of channels is summed for the first time
//   finish(g, c0, c1, sums, attempt)    sums[2][c1 - c0]; false: sum this range once more
template <class Sum, class Start, class Finish, class Map>
void sum_then_map(const Problem& sums, const Groups& groups, Sum sum, Start start, Finish finish, const Problem& maps,
                  Map map, int64_t bytes_of_element) {
  const Problem& p = sums;
  const Blocks blocks(p, groups);
  const int64_t positions = p.N * p.L;
  if (!p.lanes && p.groups == 1 && map && p.C >= 2 * threads() && positions * bytes_of_element < kLargeChannelBytes) {
    const int64_t step = std::clamp<int64_t>(kCacheBytes / (positions * bytes_of_element + 1), 1, kPlaneChannels);
    return parallel(p.C, positions, [&](int64_t a, int64_t end) {
      for (int64_t b; a < end; a = b) {
        b = std::min(a + step, end);
        start(0, a, b);
        for (int attempt = 0;; attempt++) {
          double total[2 * kPlaneChannels]{};
          for (int64_t k = 0; k < blocks.count(); k++) sum(p, blocks.tile(0, k, a, b), total);
          if (finish(0, a, b, total, attempt)) break;
        }
        map(maps, Tile{0, p.N, 0, p.L, a, b});
      }
    });
  }
  const int64_t step = std::min(p.C, p.lanes ? kLaneChannels : kPlaneChannels), strips = step ? ceil_div(p.C, step) : 0;
  parallel(p.groups * strips, 32 * step, [&](int64_t a, int64_t b) {
    for (; a < b; a++) start(a / strips, a % strips * step, std::min(p.C, (a % strips + 1) * step));
  });
  bool again = true;
  for (int attempt = 0; again; attempt++) {
    const auto partial = std::make_unique<double[]>(blocks.count() * 2 * p.C);
    parallel(
        blocks.count() * strips, positions / std::max<int64_t>(1, blocks.count()) * step, [&](int64_t a, int64_t b) {
          for (; a < b; a++) {
            const int64_t k = a / strips, c = a % strips * step;
            const int64_t g = std::upper_bound(blocks.first.begin(), blocks.first.end(), k) - blocks.first.begin() - 1;
            sum(p, blocks.tile(g, k, c, std::min(p.C, c + step)), partial.get() + k * 2 * p.C + 2 * c);
          }
        });
    again = false;
    std::vector<double> total(2 * step);
    for (int64_t g = 0; g < p.groups; g++)
      for (int64_t c = 0; c < p.C; c += step) {
        const int64_t width = std::min(step, p.C - c);
        std::fill(total.begin(), total.end(), 0.0);
        for (int64_t k = blocks.first[g]; k < blocks.first[g + 1]; k++)
          for (int64_t e = 0; e < 2 * width; e++) total[e] += partial[k * 2 * p.C + 2 * c + e];
        again |= !finish(g, c, c + width, total.data(), attempt);
      }
  }
  if (map) in_memory_order(maps, map);
}
