// Fields that several kinds of requests have.
#pragma once

#include "server/api_request.h"
#include "server/field_table.h"
#include "server/fields.h"

namespace keye::server {

inline constexpr size_t kStopStringsMax = 16;
inline constexpr size_t kStopBytesMax = 256;
inline constexpr size_t kStopTokensMax = 64;
inline constexpr size_t kBiasesMax = 1024;
inline constexpr size_t kPromptsMax = 128;
/// All numbers, strings, lists and objects of one body.
inline constexpr size_t kBodyValuesMax = size_t{1} << 22;

/// The body as an object. Errors: invalid_argument (not JSON, not an object).
Result<text::Value> parse_body(std::string_view body);
/// A random seed, the checkpoint's sampling defaults and end tokens.
engine::Request default_request(const RequestRules& rules);
/// temperature ... logit_bias, stop, seed.
Result<void> read_sampling(Fields& fields, engine::Request& request);
/// rid, priority, timeout, cache_salt: when, and what it may share.
Result<void> read_scheduling(Fields& fields, const RequestRules& rules, engine::Request& request, ReplyShape& shape);
/// Those, and model and n.
Result<void> read_common(Fields& fields, const RequestRules& rules, engine::Request& request, ReplyShape& shape);
Result<void> read_stream(Fields& fields, ReplyShape& shape);
/// Refuses the fields of the table that are not supported, as far as they were sent and would change anything, and
/// marks those without effect as known.
Result<void> read_unsupported(Fields& fields, const std::vector<FieldRow>& table);

}  // namespace keye::server
