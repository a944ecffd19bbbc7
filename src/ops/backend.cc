#include "ops/backend.h"

#include <cstring>

#include "base/machine.h"

namespace keye::ops {

size_t Backend::memory_total() { return memory_limit_bytes(); }
size_t Backend::memory_available() { return memory_available_bytes(); }

void Backend::write(const View& to, const void* from) { std::memcpy(to.data, from, to.bytes()); }
void Backend::read(const ConstView& from, void* to) { std::memcpy(to, from.data, from.bytes()); }
void Backend::copy(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }
void Backend::do_latent_input(const LatentInput&) { KEYE_CHECK(false, "{} has no latent attention", name()); }
void Backend::do_latent_query(const LatentQuery&) { KEYE_CHECK(false, "{} has no latent attention", name()); }
void Backend::do_swap_axes(const SwapAxes&) { KEYE_CHECK(false, "{} has no latent attention", name()); }
void Backend::run_step(uint64_t, const std::function<void()>& body) { body(); }

}  // namespace keye::ops
