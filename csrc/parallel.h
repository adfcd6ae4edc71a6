// Run independent pieces of work on several threads. Which thread takes which piece changes nothing.
#pragma once
#include <cstdint>
#include <functional>

namespace fastedit {

void use_openmp(void* gomp_parallel);
void parallel_for(int64_t pieces, int threads, const std::function<void(int64_t)>& work);

}  // namespace fastedit
