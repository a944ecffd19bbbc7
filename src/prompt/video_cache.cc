#include "prompt/video_cache.h"

#include <optional>
#include <utility>

namespace keye::prompt {
namespace {

template <class T>
void add(Sha256& hash, const std::optional<T>& value) {
  hash.add_value(uint8_t{value.has_value()});
  if (value) hash.add_value(*value);
}

void add(Sha256& hash, const VideoRules& rules) {
  const auto& [policy, limits, factor, adaptive] = rules;
  const auto& [min_pixels, max_pixels, total_pixels] = limits;
  hash.add_value(static_cast<uint8_t>(policy)).add_value(factor).add_value(uint8_t{adaptive});
  hash.add_value(min_pixels).add_value(max_pixels).add_value(total_pixels);
}

/// Every field by name: one more does not compile until it is here.
void add(Sha256& hash, const VideoKwargs& kwargs) {
  const auto& [fps, nframes, min_frames, max_frames, min_pixels, max_pixels, video_total_pixels, factor,
               min_frame_similarity, video_start, video_end] = kwargs;
  for (const auto& value : {fps, min_frame_similarity, video_start, video_end}) add(hash, value);
  for (const auto& value : {nframes, min_frames, max_frames, min_pixels, max_pixels, video_total_pixels}) {
    add(hash, value);
  }
  add(hash, factor);
}

size_t bytes_of(const PreparedVideo& video) {
  size_t bytes = video.frames.size() * (sizeof(VisionItem) + sizeof(FrameMark) + sizeof(media::Image));
  for (const VisionItem& frame : video.frames) bytes += frame.image->rgb.size();
  return bytes;
}

}  // namespace

Digest video_key(const Digest& source, bool is_list, const VideoRules& rules, const VideoKwargs& kwargs,
                 std::string_view salt) {
  Sha256 hash;
  hash.add_text("keye prepared video 1").add_text(salt).add(std::as_bytes(std::span(source.bytes)));
  hash.add_value(uint8_t{is_list});
  add(hash, rules);
  add(hash, kwargs);
  return hash.finish();
}

Result<VideoCache::Shared> VideoCache::prepare_now(const Prepare& prepare) {
  KEYE_TRY(PreparedVideo video, prepare());
  const std::lock_guard lock(mutex_);
  ++stats_.prepared;
  return std::make_shared<const PreparedVideo>(std::move(video));
}

Result<VideoCache::Shared> VideoCache::get(const Digest& key, const std::stop_token& stop, const Prepare& prepare) {
  if (is_off()) return prepare_now(prepare);
  const auto mine = std::make_shared<Pending>();
  {
    std::unique_lock lock(mutex_);
    while (true) {
      if (Shared kept = kept_.find(key)) {
        ++stats_.found;
        return kept;
      }
      const auto [place, is_first] = pending_.try_emplace(key, mine);
      if (is_first) break;
      const std::shared_ptr<Pending> theirs = place->second;
      if (!changed_.wait(lock, stop, [&] { return theirs->is_over; })) {
        return Error{ErrorCode::cancelled, "stopped on request", ""};
      }
      if (theirs->video == nullptr) continue;
      ++stats_.found;
      return theirs->video;
    }
  }
  auto video = prepare_now(prepare);
  finish(key, mine, video ? *video : nullptr);
  return video;
}

void VideoCache::finish(const Digest& key, const std::shared_ptr<Pending>& pending, const Shared& video) {
  const std::lock_guard lock(mutex_);
  pending->is_over = true;
  pending->video = video;
  const auto place = pending_.find(key);
  if (place != pending_.end() && place->second == pending) {  // otherwise all was forgotten meanwhile
    pending_.erase(place);
    if (video != nullptr) kept_.add(key, video, bytes_of(*video));
  }
  changed_.notify_all();
}

void VideoCache::clear() {
  const std::lock_guard lock(mutex_);
  kept_.clear();
  pending_.clear();
}

VideoCache::Stats VideoCache::stats() const {
  const std::lock_guard lock(mutex_);
  Stats stats = stats_;
  stats.bytes = kept_.bytes();
  return stats;
}

}  // namespace keye::prompt
