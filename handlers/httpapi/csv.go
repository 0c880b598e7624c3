package httpapi

import (
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"grout/schemas"
)

// sendCSV answers a usage query as CSV (RFC 4180): a header line, then one line a
// row; totals are left to the reader. Open ends and absent groups are empty
// cells. A text that a spreadsheet would take for a formula gets a single quote
// in front, because user and model names come from outside; numbers never do.
func sendCSV(c echo.Context, q *reportQuery, report *schemas.UsageReport) error {
	out := newStream(c, "text/csv; charset=utf-8")
	out.buf = append(out.buf, "window_start,window_end"...)
	for _, d := range q.GroupBy {
		out.buf = append(out.buf, ',')
		out.buf = append(out.buf, d...)
	}
	for _, name := range sumNames {
		out.buf = append(out.buf, ',')
		out.buf = append(out.buf, name...)
	}
	out.buf = append(out.buf, ",cost\r\n"...)
	for i := range report.Rows {
		out.buf = appendCSVRow(out.buf, &report.Rows[i])
		if err := out.full(); err != nil {
			return err
		}
	}
	return out.end()
}

func appendCSVRow(b []byte, row *schemas.UsageRow) []byte {
	b = appendCSVTime(b, row.WindowStart)
	b = append(b, ',')
	b = appendCSVTime(b, row.WindowEnd)
	for _, v := range row.Group {
		b = append(b, ',')
		b = appendCell(b, v)
	}
	for _, n := range counts(&row.UsageSums) {
		b = append(b, ',')
		b = strconv.AppendInt(b, n, 10)
	}
	b = append(b, ',')
	b = schemas.AppendAmount(b, row.Cost)
	return append(b, '\r', '\n')
}

// appendCell writes a text, quoted where RFC 4180 asks for it.
func appendCell(b []byte, s string) []byte {
	if s != "" && strings.ContainsRune("=+-@\t\r\n", rune(s[0])) {
		s = "'" + s
	}
	if !strings.ContainsAny(s, ",\"\r\n") {
		return append(b, s...)
	}
	b = append(b, '"')
	b = append(b, strings.ReplaceAll(s, `"`, `""`)...)
	return append(b, '"')
}

func appendCSVTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return b
	}
	return t.UTC().AppendFormat(b, time.RFC3339)
}
