#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace fastedit {
namespace {

using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
std::atomic<GompParallel> gomp{nullptr};

struct Share {
    int64_t pieces;
    const std::function<void(int64_t)>* work;
    std::atomic<int64_t> next{0};

    static void run(void* share) {
        Share& self = *static_cast<Share*>(share);
        for (int64_t i; (i = self.next.fetch_add(1, std::memory_order_relaxed)) < self.pieces;)
            (*self.work)(i);
    }
};

}  // namespace

void use_openmp(void* gomp_parallel) { gomp = reinterpret_cast<GompParallel>(gomp_parallel); }

void parallel_for(int64_t pieces, int threads, const std::function<void(int64_t)>& work) {
    Share share{pieces, &work};
    const int team = int(std::min<int64_t>(threads, pieces));
    if (team <= 1) {
        Share::run(&share);
    } else if (const GompParallel parallel = gomp) {
        // The threads that torch keeps anyway: two pools would take the cores from each other.
        parallel(Share::run, &share, unsigned(team), 0);
    } else {
        std::vector<std::thread> others;
        for (int i = 1; i < team; ++i) others.emplace_back(Share::run, &share);
        Share::run(&share);
        for (std::thread& other : others) other.join();
    }
}

}  // namespace fastedit
