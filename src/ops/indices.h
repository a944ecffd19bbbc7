// Whole numbers that tell ops which rows and pages to use: known to the host, read by the device.
#pragma once

#include <concepts>
#include <cstdint>
#include <span>

#include "ops/paged_kv.h"

namespace keye::ops {

/// Numbers in the host's memory and, where Backend::upload put one, a copy in the device's. Both must live as long as
/// the op; a copy lives until the next Backend::begin_step().
class Indices : public std::span<const int32_t> {
 public:
  Indices() = default;
  template <class Range>
  requires std::convertible_to<const Range&, std::span<const int32_t>> Indices(
      const Range& host, const int32_t* device = nullptr)  // NOLINT: implicit by design
      : std::span<const int32_t>(host), device_(device) {}
  Indices(const int32_t* host, size_t count) : std::span<const int32_t>(host, count) {}

  /// Null: not uploaded.
  const int32_t* device() const { return device_; }

 private:
  const int32_t* device_ = nullptr;
};

/// The sequences of a step, likewise; what a copy looks like is the device's own business.
class Sequences : public std::span<const SequenceRows> {
 public:
  Sequences() = default;
  template <class Range>
  requires std::convertible_to<const Range&, std::span<const SequenceRows>> Sequences(
      const Range& host, const void* device = nullptr)  // NOLINT: implicit by design
      : std::span<const SequenceRows>(host), device_(device) {}
  Sequences(const SequenceRows* host, size_t count) : std::span<const SequenceRows>(host, count) {}

  const void* device() const { return device_; }

 private:
  const void* device_ = nullptr;
};

}  // namespace keye::ops
