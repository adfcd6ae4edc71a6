#include "rows.h"

#include <algorithm>
#include <cstring>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "parallel.h"

namespace fastedit {
namespace {

const RowReader* const kReaders[] = {&kAvx512, &kAvx2, &kPortable};

#if defined(__x86_64__)
bool has_f16c() {  // __builtin_cpu_supports knows it from GCC 11 on only
    unsigned a, b, c = 0, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1);
}
#endif

bool runs_here(const RowReader* reader) {
    if (!reader->read) return false;  // not in this build
#if defined(__x86_64__)
#if !defined(FASTEDIT_EMULATE_AVX512)
    if (reader == &kAvx512) return __builtin_cpu_supports("avx512f");
#endif
    if (reader != &kPortable)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
#endif
    return true;
}

const RowReader*& chosen() {
    static const RowReader* reader = *std::find_if(std::begin(kReaders), std::end(kReaders), runs_here);
    return reader;
}

}  // namespace

const RowReader& row_reader() { return *chosen(); }

int useful_threads(int64_t elements, int threads) {
    // About 60 us on one thread. Below, a second one saves less than 10 us, and beside a busy
    // process may cost milliseconds. fp32 and bf16 take the same time, so elements count, not bytes.
    constexpr int64_t kWorthwhile = 262144;
    return elements < kWorthwhile ? 1 : threads;
}

std::vector<RowState> read_rows(const fe_logits& logits, const std::vector<Place>& rows,
                                float scale, bool entropy, int threads) {
    const int64_t splits = (logits.vocab + kSplit - 1) / kSplit, count = int64_t(rows.size());
    std::vector<RowState> parts(size_t(count * splits));
    const RowReader& reader = row_reader();
    threads = useful_threads(count * logits.vocab, threads);
    parallel_for(count * splits, threads, [&](int64_t piece) {
        const Place at = rows[size_t(piece / splits)];
        const int64_t begin = piece % splits * kSplit;
        parts[size_t(piece)] = reader.read(row_at(logits, at.block, at.place), logits, begin,
                                           std::min(begin + kSplit, logits.vocab), scale, entropy);
    });
    std::vector<RowState> states(rows.size());
    for (int64_t row = 0; row < count; ++row)
        for (int64_t split = 0; split < splits; ++split)
            states[size_t(row)].merge(parts[size_t(row * splits + split)]);
    return states;
}

}  // namespace fastedit

using namespace fastedit;

int32_t fe_abi_version(void) { return FASTEDIT_ABI; }

const char* fe_instruction_set(void) { return row_reader().name; }

int32_t fe_use_instruction_set(const char* name) {
    for (const RowReader* reader : kReaders)
        if (reader->name && std::strcmp(reader->name, name) == 0 && runs_here(reader)) {
            chosen() = reader;
            return 0;
        }
    return -1;
}

void fe_use_openmp(void* gomp_parallel) { use_openmp(gomp_parallel); }

static std::vector<Place> first_rows(int64_t count) {
    std::vector<Place> rows(size_t(count), Place{0, 0});
    for (int64_t r = 0; r < count; ++r) rows[size_t(r)].place = r;
    return rows;
}

int32_t fe_row_partials(const fe_row_partials_args* args, int32_t threads) {
    if (!servable(args->logits)) return -1;
    const auto states =
        read_rows(args->logits, first_rows(args->rows), float(kLog2e), false, threads);
    for (int64_t r = 0; r < args->rows; ++r) {
        const RowState& state = states[size_t(r)];
        args->max[r] = state.max;
        const float one = row_reader().power(state.max, float(kLog2e), state.reference);
        args->sum[r] = state.max > -kInf ? state.sum / one : 0.0f;
        args->best[r] = state.best;
        args->token[r] = state.index;
        args->bad[r] = state.bad;
    }
    return 0;
}

int32_t fe_row_stats(const fe_row_stats_args* args, int32_t threads) {
    const fe_logits& logits = args->logits;
    if (!servable(logits)) return -1;
    const double scale = kLog2e / args->temperature;
    const auto states = read_rows(logits, first_rows(args->rows), float(scale),
                                  args->entropy != nullptr, threads);
    for (int64_t r = 0; r < args->rows; ++r) {
        const RowState& state = states[size_t(r)];
        const int64_t current = args->current[r];
        const bool exists = state.best > -kInf, any = state.max > -kInf;
        const double log2_sum = state.reference + std::log2(double(state.sum));
        args->token[r] = exists ? state.index : current;
        args->prob[r] = exists ? probability(state, state.best, scale) : 0.0f;
        args->prob_current[r] = current >= 0 && current < logits.vocab
            ? probability(state, finite(logit_at(row_at(logits, 0, r), logits.dtype, current)), scale)
            : 0.0f;
        args->lse[r] = any ? float(std::clamp(log2_sum * kLn2, -double(kLargest), double(kLargest)))
                           : -kInf;
        if (args->entropy)
            args->entropy[r] = any
                ? float(std::max(0.0, (std::log2(double(state.sum)) - state.weighted / state.sum) * kLn2))
                : 0.0f;
        args->bad[r] = state.bad || !exists;
    }
    return 0;
}
