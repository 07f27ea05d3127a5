// Attention of the decoding columns on CPU in float32: `treepo.engines.kernel` calls it.
//
// Each column reads the slots that it sees and no others, so what else is in the batch changes no bit.
// Numbers of a head lie side by side in a vector, as many slots as a vector has numbers are scored at
// a time, and sums stay in registers. A key head has `groups` query rows.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int WIDE = 16;  // numbers in a vector
#else
constexpr int WIDE = 8;
#endif
constexpr int BLOCK = 64;         // slots between two corrections of the running maximum
constexpr int TILE = 4;           // query rows, and vectors of a head, whose sums stay in registers
constexpr int MOST_GROUPS = 64;   // query rows of a key head
constexpr int MOST_ROWS = 512;    // query rows of a column
constexpr int SIDE_BY_SIDE = 16;  // columns of a thread at a time
constexpr int LINE = 16;          // numbers that come from memory together

typedef float Vector __attribute__((vector_size(WIDE * sizeof(float)), aligned(4)));
typedef float Aligned __attribute__((vector_size(WIDE * sizeof(float))));
typedef int32_t Whole __attribute__((vector_size(WIDE * sizeof(int32_t))));
#define INLINE inline __attribute__((always_inline))

INLINE Aligned load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
INLINE void store(float* to, Aligned value) { *reinterpret_cast<Vector*>(to) = value; }
INLINE Aligned all(float value) { return value - Aligned{}; }

// e^x for x <= 0, to 2 units in the last place; 0 below -87, NaN for NaN.
INLINE Aligned exponential(Aligned x) {
    const Aligned clamped = x < -87.f ? all(-87.f) : x;
    const Aligned shifted = clamped * 1.44269504f + 12582912.f;  // x / ln 2, rounded: in the last bits
    const Aligned whole = shifted - 12582912.f;
    const Aligned rest = clamped - whole * 0.693359375f + whole * 2.12194440e-4f;
    Aligned sum = all(1.9875691500e-4f);
    sum = sum * rest + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * rest * rest + rest + 1.f;
    const Whole power = ((Whole)shifted - 0x4B400000 + 127) << 23;
    return x < -87.f ? Aligned{} : sum * (Aligned)power;
}

// Number i of the result is the sum of parts[i]. Two vectors of partial sums become one:
// their runs of RUN numbers are interleaved and added in halves, until each number is a whole sum.
template <int COUNT>
INLINE Aligned sums(const Aligned* parts) {
    if constexpr (COUNT == 1) {
        return parts[0];
    } else {
        constexpr int HALF = COUNT / 2, RUN = COUNT / 2;
        Whole low, high;
        for (int i = 0; i < WIDE; i++) {
            const int run = i / RUN, within = i % RUN;
            low[i] = (run % 2 ? WIDE : 0) + run / 2 * 2 * RUN + within;
            high[i] = low[i] + RUN;
        }
        Aligned halved[HALF];
        for (int i = 0; i < HALF; i++)
            halved[i] = __builtin_shuffle(parts[i], parts[i + HALF], low) +
                        __builtin_shuffle(parts[i], parts[i + HALF], high);
        return sums<HALF>(halved);
    }
}

}  // namespace

extern "C" {

// `treepo.engines.kernel.Call`. Column c sees the first lengths[c] of the slots in row paths[c].
struct Call {
    const float* query;   // [columns, heads * groups, width]
    const float* keys;    // [slots, heads, width]
    const float* values;  // like keys
    float* out;           // like query
    const int64_t* slots;  // [paths, longest]
    const int64_t* paths;
    const int64_t* lengths;
    int64_t columns, longest, heads, groups, width, threads;
    float scale;
};

}  // extern "C"

namespace {

// Up to BLOCK slots of a path, and the weights that the rows of one key head give them. The last
// slot is repeated, without weight, until `padded` is whole vectors.
struct Slots {
    int count, padded;
    const float* keys[BLOCK];
    const float* values[BLOCK];
    float weights[MOST_GROUPS][BLOCK];
};

INLINE void score(const Slots& slots, const float* query, float scale, int width, float* scores) {
    for (int s = 0; s < slots.padded; s += WIDE) {
        Aligned products[WIDE] = {};
        for (int e = 0; e < width; e += WIDE) {
            const Aligned part = load(query + e);
            for (int i = 0; i < WIDE; i++) products[i] += part * load(slots.keys[s + i] + e);
        }
        store(scores + s, sums<WIDE>(products) * scale);
    }
    for (int s = slots.count; s < slots.padded; s++) scores[s] = -INFINITY;
}

// Scores to weights under the running maximum; returns what earlier sums are to be multiplied by.
INLINE float soften(float* weights, int padded, float& top, float& total) {
    Aligned highs = all(top);
    for (int s = 0; s < padded; s += WIDE) {
        const Aligned score = load(weights + s);
        highs = score > highs ? score : highs;
    }
    float highest = highs[0];
    for (int i = 1; i < WIDE; i++) highest = highs[i] > highest ? highs[i] : highest;
    Aligned sum = {};
    for (int s = 0; s < padded; s += WIDE) {
        const Aligned weight = exponential(load(weights + s) - highest);
        store(weights + s, weight);
        sum += weight;
    }
    const float kept = exponential(all(top - highest))[0];
    float added = 0;
    for (int i = 0; i < WIDE; i++) added += sum[i];
    total = total * kept + added;
    top = highest;
    return kept;
}

template <int ROWS, int VECTORS>
INLINE void mix(const Slots& slots, int row, int first, const float* kept, float* out, int width) {
    Aligned mixed[ROWS][VECTORS];
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++) mixed[r][v] = load(out + r * width + first + v * WIDE) * kept[r];
    for (int s = 0; s < slots.count; s++) {
        Aligned value[VECTORS];
        for (int v = 0; v < VECTORS; v++) value[v] = load(slots.values[s] + first + v * WIDE);
        for (int r = 0; r < ROWS; r++)
            for (int v = 0; v < VECTORS; v++) mixed[r][v] += value[v] * slots.weights[row + r][s];
    }
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++) store(out + r * width + first + v * WIDE, mixed[r][v]);
}

template <int ROWS>
INLINE void mix_rows(const Slots& slots, int row, const float* kept, float* out, int width) {
    int first = 0;
    for (; first + TILE * WIDE <= width; first += TILE * WIDE) mix<ROWS, TILE>(slots, row, first, kept, out, width);
    for (; first < width; first += WIDE) mix<ROWS, 1>(slots, row, first, kept, out, width);
}

// The rows of one key head over a block of slots. The rows' sums are kept in `out` between blocks.
INLINE void attend_block(Slots& slots, const float* query, float* out, float* top, float* total, const Call& call) {
    const int width = call.width, groups = call.groups;
    float kept[MOST_GROUPS];
    for (int r = 0; r < groups; r++) {
        score(slots, query + r * width, call.scale, width, slots.weights[r]);
        kept[r] = soften(slots.weights[r], slots.padded, top[r], total[r]);
    }
    int r = 0;
    for (; r + TILE <= groups; r += TILE) mix_rows<TILE>(slots, r, kept + r, out + r * width, width);
    switch (groups - r) {
        case 3: mix_rows<3>(slots, r, kept + r, out + r * width, width); break;
        case 2: mix_rows<2>(slots, r, kept + r, out + r * width, width); break;
        case 1: mix_rows<1>(slots, r, kept + r, out + r * width, width); break;
    }
}

// The running sums of a column's rows.
struct Sums {
    float top[MOST_ROWS], total[MOST_ROWS];
};

// Columns from `begin` to `end`, side by side, that see the same `count` slots in a block of their paths.
struct Run {
    int64_t begin, end;
    const int64_t* slots;
    int count;
};

std::vector<Run> runs_of(const Call& call, int64_t begin, int64_t end) {
    std::vector<Run> runs;
    const int64_t longest = *std::max_element(call.lengths + begin, call.lengths + end);
    for (int64_t first = 0; first < longest; first += BLOCK) {
        const auto run_at = [&](int64_t column) {
            const int64_t* path = call.slots + call.paths[column] * call.longest;
            const int64_t count = std::clamp<int64_t>(call.lengths[column] - first, 0, BLOCK);
            return Run{column, column + 1, path + first, static_cast<int>(count)};
        };
        for (int64_t column = begin; column < end;) {
            Run run = run_at(column);
            for (; run.end < end; run.end++) {
                const Run next = run_at(run.end);
                if (!std::equal(run.slots, run.slots + run.count, next.slots, next.slots + next.count)) break;
            }
            if (run.count) runs.push_back(run);
            column = run.end;
        }
    }
    return runs;
}

// What a head of the next run reads comes from memory while this one computes.
INLINE void prefetch(const Call& call, const Run& run, int head) {
    for (int s = 0; s < run.count; s++) {
        const int64_t at = (run.slots[s] * call.heads + head) * call.width;
        for (int e = 0; e < call.width; e += LINE) {
            __builtin_prefetch(call.keys + at + e, 0, 2);
            __builtin_prefetch(call.values + at + e, 0, 2);
        }
    }
}

// Keys and values are read in the order in which they lie: all heads of a slot. sums: of the run's first column.
void attend_run(const Call& call, const Run& run, const Run* next, Sums* sums) {
    const int width = call.width, heads = call.heads, groups = call.groups;
    Slots slots;
    slots.count = run.count;
    slots.padded = (slots.count + WIDE - 1) / WIDE * WIDE;
    for (int s = 0; s < slots.padded; s++) {
        const int64_t at = run.slots[std::min(s, slots.count - 1)] * heads * width;
        slots.keys[s] = call.keys + at;
        slots.values[s] = call.values + at;
    }
    for (int head = 0; head < heads; head++) {
        if (next) prefetch(call, *next, head);
        const int row = head * groups;
        for (int64_t column = run.begin; column < run.end; column++) {
            const int64_t at = (column * heads * groups + row) * width;
            Sums& of = sums[column - run.begin];
            attend_block(slots, call.query + at, call.out + at, of.top + row, of.total + row, call);
        }
        for (int s = 0; s < slots.padded; s++) slots.keys[s] += width, slots.values[s] += width;
    }
}

// Columns side by side, block after block of their paths: what siblings share is read once for all of them.
void attend(const Call& call, int64_t begin, int64_t end) {
    const int rows = call.heads * call.groups, width = call.width;
    Sums sums[SIDE_BY_SIDE];
    for (int64_t column = begin; column < end; column++) {
        std::fill_n(sums[column - begin].top, rows, -1e30f);
        std::fill_n(sums[column - begin].total, rows, 0.f);
        std::fill_n(call.out + column * rows * width, rows * width, 0.f);
    }
    const std::vector<Run> runs = runs_of(call, begin, end);
    for (size_t at = 0; at < runs.size(); at++)
        attend_run(call, runs[at], at + 1 < runs.size() ? &runs[at + 1] : nullptr, sums + runs[at].begin - begin);
    for (int64_t column = begin; column < end; column++) {
        float* out = call.out + column * rows * width;
        for (int r = 0; r < rows; r++)
            for (int e = 0; e < width; e++) out[r * width + e] /= sums[column - begin].total[r];
    }
}

}  // namespace

extern "C" {

// Whether the caller's `Call` is the one above (else this was compiled from another version), this machine has
// the vectors of the one that compiled this, and the shape is not too large.
int treepo_fits(int64_t call_bytes, int64_t heads, int64_t groups, int64_t width) {
    if (call_bytes != sizeof(Call)) return 0;
#if defined(__AVX512F__)
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw")) return 0;
    if (!__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) return 0;
#elif defined(__AVX2__)
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
#endif
    return width % WIDE == 0 && groups <= MOST_GROUPS && heads * groups <= MOST_ROWS;
}

// Siblings lie side by side, so one thread has them.
void treepo_attend(const Call* call) {
    const int64_t side_by_side = std::clamp<int64_t>(call->columns / (8 * call->threads), 1, SIDE_BY_SIDE);
#pragma omp parallel for schedule(dynamic) num_threads(call->threads)
    for (int64_t column = 0; column < call->columns; column += side_by_side)
        attend(*call, column, std::min(column + side_by_side, call->columns));
}

}  // extern "C"
