// Which code reads rows on this processor, and many rows in parallel.
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

std::vector<RowState> read_parts(const fe_logits& logits, const std::vector<Place>& rows,
                                 const Reading& reading, int threads,
                                 std::vector<Ranking>* rankings) {
    const int64_t splits = parts_of_row(logits), count = int64_t(rows.size());
    std::vector<RowState> parts(size_t(count * splits));
    if (reading.ranks) rankings->assign(parts.size(), Ranking{reading.ranks});
    const RowReader& reader = row_reader();
    threads = useful_threads(count * logits.vocab, threads);
    // What a thread fetches ahead is its own where it reads several parts on end.
    const int64_t run = std::clamp<int64_t>(count * splits / (4 * threads), 1, splits);
    const int64_t runs = (splits + run - 1) / run;
    parallel_for(count * runs, threads, [&](int64_t piece) {
        const int64_t row = piece / runs, first = piece % runs * run;
        const Place at = rows[size_t(row)];
        for (int64_t split = first; split < std::min(first + run, splits); ++split) {
            const size_t part = size_t(row * splits + split);
            const int64_t begin = split * kSplit;
            parts[part] = reader.read(row_at(logits, at.block, at.place), logits, begin,
                                      std::min(begin + kSplit, logits.vocab), reading.scale_of(row),
                                      reading.entropy, reading.ranks ? &(*rankings)[part] : nullptr);
        }
    });
    return parts;
}

std::vector<RowState> read_rows(const fe_logits& logits, const std::vector<Place>& rows,
                                const Reading& reading, int threads,
                                std::vector<Ranking>* rankings) {
    const int64_t splits = parts_of_row(logits), count = int64_t(rows.size());
    std::vector<Ranking> ranked;
    std::vector<RowState> parts = read_parts(logits, rows, reading, threads, &ranked);
    if (splits == 1) {
        if (reading.ranks) *rankings = std::move(ranked);
        return parts;
    }
    std::vector<RowState> states(rows.size());
    for (int64_t row = 0; row < count; ++row)
        for (int64_t split = 0; split < splits; ++split)
            states[size_t(row)].merge(parts[size_t(row * splits + split)]);
    if (!reading.ranks) return states;
    rankings->assign(rows.size(), Ranking{reading.ranks});
    for (int64_t row = 0; row < count; ++row)
        for (int64_t split = 0; split < splits; ++split)
            (*rankings)[size_t(row)].merge(ranked[size_t(row * splits + split)]);
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
