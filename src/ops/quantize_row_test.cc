#include "ops/quantize_row.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "ops/row_testing.h"

namespace keye::ops {
namespace {

TEST(Fp8, CodesStandForTheReferencesNumbers) {
  const Golden golden("fp8.safetensors");
  const auto* values = golden["fp8.e4m3_values"].as<float>();
  for (int code = 0; code < 256; ++code) {
    const float value = f8_to_float(static_cast<uint8_t>(code));
    if (std::isnan(values[code])) {
      EXPECT_TRUE(std::isnan(value)) << code;
    } else {
      EXPECT_EQ(value, values[code]) << code;
    }
  }
}

TEST(Fp8, NumbersAreRoundedAsTheReferenceDoes) {
  const Golden golden("fp8.safetensors");
  const ConstView input = golden["fp8.round_input"];
  const auto* output = golden["fp8.round_output"].as<float>();
  for (int64_t i = 0; i < input.elements(); ++i) {
    EXPECT_EQ(f8_to_float(float_to_f8(input.as<float>()[i])), output[i]) << input.as<float>()[i];
  }
}

TEST(Fp8, RowsHaveTheReferencesCodesAndScales) {
  const Golden golden("fp8.safetensors");
  const ConstView rows = golden["fp8.rows"];
  const auto dim = static_cast<int>(rows.shape[1]);
  for (int64_t r = 0; r < rows.shape[0]; ++r) {
    std::vector<float> row(rows.as<float>() + r * dim, rows.as<float>() + (r + 1) * dim);
    round_row_to_f8(row.data(), dim);
    for (int i = 0; i < dim; ++i) {
      const uint8_t code = golden["fp8.rows_codes"].as<uint8_t>()[r * dim + i];
      EXPECT_EQ(row[static_cast<size_t>(i)], f8_to_float(code) * golden["fp8.rows_scale"].as<float>()[r])
          << "row " << r << ", column " << i;
    }
  }
}

TEST(QuantizeRow, LosesLittleAndNothingOfZeros) {
  const std::vector<float> x = {0.0F, -3.0F, 0.5F, 1e-3F, 2.999F, -0.01F};
  for (const DType dtype : {DType::i8, DType::f8_e4m3}) {
    std::vector<uint8_t> codes(x.size());
    float scale = 0;
    quantize_row(dtype, x.data(), static_cast<int>(x.size()), codes.data(), &scale);
    for (size_t i = 0; i < x.size(); ++i) {
      const float code = dtype == DType::i8 ? static_cast<float>(static_cast<int8_t>(codes[i])) : f8_to_float(codes[i]);
      // Half a step: of i8 the same everywhere, of e4m3 a sixteenth of the number, or of the smallest ones.
      const float allowed = dtype == DType::i8 ? 0.5F * scale : std::max(std::abs(x[i]) / 16, 0x1p-10F * scale);
      EXPECT_NEAR(code * scale, x[i], allowed * 1.001F) << dtype_name(dtype) << " " << x[i];
    }
    const std::vector<float> zeros(x.size());
    quantize_row(dtype, zeros.data(), static_cast<int>(zeros.size()), codes.data(), &scale);
    EXPECT_EQ(scale, 0.0F);
  }
}

}  // namespace
}  // namespace keye::ops
