package main

import (
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"
)

// bar is one line of a chart.
type bar struct {
	label string
	value float64 // of zero or more
	text  string  // the value as it is shown
}

const (
	leastBar  = 10 // characters of the longest bar, however narrow the terminal
	mostBar   = 120
	mostLabel = 40
)

// drawBars draws a horizontal bar chart as wide as the terminal, or as COLUMNS
// says (80). Colours are for terminals only, and not for NO_COLOR.
func drawBars(out io.Writer, bars []bar) error {
	width, terminal := columnsOf(os.Getenv("COLUMNS")), false
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		terminal = true
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			width = w
		}
	}
	on, off := "", ""
	if terminal && os.Getenv("NO_COLOR") == "" {
		on, off = "\x1b[36m", "\x1b[0m"
	}
	_, err := io.WriteString(out, renderBars(bars, width, on, off))
	return err
}

func renderBars(bars []bar, width int, on, off string) string {
	label, text, most := 0, 0, 0.0
	for i := range bars {
		if runes := []rune(bars[i].label); len(runes) > mostLabel {
			bars[i].label = string(runes[:mostLabel-1]) + "…"
		}
		label = max(label, utf8.RuneCountInString(bars[i].label))
		text = max(text, utf8.RuneCountInString(bars[i].text))
		most = max(most, bars[i].value)
	}
	room := min(max(width-label-text-3, leastBar), mostBar)
	var b strings.Builder
	for i := range bars {
		r := &bars[i]
		b.WriteString(r.label + strings.Repeat(" ", label-utf8.RuneCountInString(r.label)+1))
		b.WriteString(strings.Repeat(" ", text-utf8.RuneCountInString(r.text)) + r.text)
		if drawn := blocks(r.value, most, room); drawn != "" {
			b.WriteString(" " + on + drawn + off)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// blocks draws a bar in eighths of a character. What is not zero is visible.
func blocks(value, most float64, room int) string {
	if value <= 0 || most <= 0 {
		return ""
	}
	eighths := max(int(value/most*float64(room)*8+.5), 1)
	drawn := strings.Repeat("█", eighths/8)
	if rest := eighths % 8; rest > 0 {
		drawn += string([]rune("▏▎▍▌▋▊▉")[rest-1])
	}
	return drawn
}
