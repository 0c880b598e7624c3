package schemas

import (
	"math"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

func TestParseCost(t *testing.T) {
	for text, want := range map[string]struct {
		nanos int64
		code  Code
	}{
		"0":                                      {0, ""},
		"-0":                                     {0, ""},
		"-0.00e5":                                {0, ""},
		"0e99999999999999999999":                 {0, ""},
		"1":                                      {1e9, ""},
		"1.10":                                   {1_100_000_000, ""},
		"1e-05":                                  {10_000, ""},
		"1E+2":                                   {100e9, ""},
		"0.000000001":                            {1, ""},
		"0.0000000010000":                        {1, ""},
		"1e-9":                                   {1, ""},
		"10e-10":                                 {1, ""},
		"1e-10":                                  {0, CodeInvalidNumber},
		"0.0000000011":                           {0, CodeInvalidNumber},
		"123456789.987654321":                    {123_456_789_987_654_321, ""},
		"0.000000000123e9":                       {123_000_000, ""},
		"1000000000":                             {1e18, ""},
		"1000000000.000000000":                   {1e18, ""},
		"0.01e11":                                {1e18, ""},
		"1000000000.000000001":                   {0, CodeOutOfRange},
		"9999999999.999999999":                   {0, CodeOutOfRange},
		"10000000000":                            {0, CodeOutOfRange},
		"18446744073.709551617":                  {0, CodeOutOfRange}, // 2⁶⁴ + 1 nano-units
		"1e18":                                   {0, CodeOutOfRange},
		"1e400":                                  {0, CodeOutOfRange},
		"1e99999999999999999999":                 {0, CodeOutOfRange},
		"1e-99999999999999999999":                {0, CodeInvalidNumber},
		"-1e-99999999999999999999":               {0, CodeOutOfRange},
		"-0.5":                                   {0, CodeOutOfRange},
		"1" + strings.Repeat("0", 300) + "e-300": {1e9, ""},
		"0." + strings.Repeat("0", 299) + "1e300":                     {1e9, ""},
		"0.30000000000000004":                                         {0, CodeInvalidNumber},
		"1.000000000" + strings.Repeat("0", 100):                      {1e9, ""},
		"1.000000000" + strings.Repeat("0", 100) + "1":                {0, CodeInvalidNumber},
		"0." + strings.Repeat("0", 1000) + "5e1000":                   {500_000_000, ""},
		"-" + strings.Repeat("9", 40) + "." + strings.Repeat("9", 40): {0, CodeOutOfRange},
	} {
		if nanos, code := parseCost(text); nanos != want.nanos || code != want.code {
			t.Errorf("%s: %d %q, want %d %q", text, nanos, code, want.nanos, want.code)
		}
	}
}

func TestCostRoundTrip(t *testing.T) {
	for _, nanos := range []int64{0, 1, 10, 999_999_999, 1e9, 1_000_000_001, MaxCostNanos - 1, MaxCostNanos} {
		text := string(AppendCost(nil, nanos))
		if got, code := parseCost(text); got != nanos || code != "" {
			t.Errorf("%s: %d %q, want %d", text, got, code, nanos)
		}
	}
}

func TestCanonicalNumber(t *testing.T) {
	for text, want := range map[string]string{
		"-0":                     "0",
		"0.0e7":                  "0",
		"1.0":                    "1",
		"-1.50":                  "-1.5",
		"1e2":                    "100",
		"12.5e-1":                "1.25",
		"0.000001":               "0.000001",
		"0.0000001":              "1e-7",
		"123e-9":                 "1.23e-7",
		"100000000000000000000":  "100000000000000000000",
		"1e20":                   "100000000000000000000",
		"1e21":                   "1e+21",
		"1234567890123456789012": "1.234567890123456789012e+21",
		"9007199254740993":       "9007199254740993",
		"0.1000000000000000055":  "0.1000000000000000055",
		"1E400":                  "1e+400",
		"-1.5e-400":              "-1.5e-400",
		"1e999999999999999999":   "1e999999999999999999",
	} {
		if got := string(appendCanonicalNumber(nil, text)); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

// What a float64 can print is written as RFC 8785 demands.
func TestCanonicalNumberIsRFC8785(t *testing.T) {
	for bits := uint64(1); bits != 0; bits = bits*6364136223846793005 + 1442695040888963407 {
		f := math.Float64frombits(bits)
		if math.IsNaN(f) || math.IsInf(f, 0) {
			continue
		}
		want := string(jsontext.AppendFloat(nil, f, 64))
		if got := string(appendCanonicalNumber(nil, want)); got != want {
			t.Fatalf("%s, want %s", got, want)
		}
		if bits%100_003 == 0 {
			break
		}
	}
}
