// Videos that were prepared before: a follow-up question decodes nothing again.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string_view>
#include <unordered_map>

#include "base/lru_cache.h"
#include "prompt/videos.h"

namespace keye::prompt {

/// What a prepared video is kept under: a digest of what it is made from, all that decides its frames and their sizes,
/// and `salt`, which keeps tenants apart, so that none can learn from the clock what another has shown. Equal keys,
/// equal frames, as long as the cache belongs to one model.
Digest video_key(const Digest& source, bool is_list, const VideoRules& rules, const VideoKwargs& kwargs,
                 std::string_view salt);

/// Whole videos, resized, up to a number of bytes; those used last stay. From any thread.
class VideoCache {
 public:
  using Shared = std::shared_ptr<const PreparedVideo>;
  using Prepare = std::function<Result<PreparedVideo>()>;

  struct Stats {
    uint64_t prepared = 0;  // videos that were read
    uint64_t found = 0;     // that were there, or were being prepared for somebody else
    size_t bytes = 0;       // that are kept
  };

  /// 0: nothing is kept, and nothing is waited for.
  explicit VideoCache(size_t bytes_max) : kept_(bytes_max) {}
  bool is_off() const { return kept_.bytes_max() == 0; }

  /// The video that is kept under `key`, or what `prepare` gives, which is then kept. While it is being prepared,
  /// others who want it wait; if that fails, the next of them tries, as the failure may have been the first one's own
  /// (its time was over, its context full). Errors: those of `prepare`; cancelled.
  Result<Shared> get(const Digest& key, const std::stop_token& stop, const Prepare& prepare);
  /// Forgets all; what is being prepared reaches those who wait for it, and is not kept.
  void clear();

  Stats stats() const;

 private:
  struct Pending {
    bool is_over = false;
    Shared video;  // null: it could not be prepared
  };

  Result<Shared> prepare_now(const Prepare& prepare);
  void finish(const Digest& key, const std::shared_ptr<Pending>& pending, const Shared& video);

  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  LruCache<PreparedVideo> kept_;
  std::unordered_map<Digest, std::shared_ptr<Pending>, DigestHash> pending_;
  Stats stats_;
};

}  // namespace keye::prompt
