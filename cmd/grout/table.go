package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// textTable is printed with columns of equal width.
type textTable struct {
	head  []string
	right []bool
	rows  [][]string
}

// columns adds columns of texts, which begin at the left.
func (t *textTable) columns(names ...string) { t.add(names, false) }

// numbers adds columns of numbers, which end at the right.
func (t *textTable) numbers(names ...string) { t.add(names, true) }

func (t *textTable) add(names []string, right bool) {
	for _, name := range names {
		t.head, t.right = append(t.head, name), append(t.right, right)
	}
}

func (t *textTable) print(out io.Writer) error {
	widths := make([]int, len(t.head))
	lines := slices.Concat([][]string{t.head}, t.rows)
	for _, cells := range lines {
		for i, c := range cells {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	var b strings.Builder
	for _, cells := range lines {
		for i, c := range cells {
			if i > 0 {
				b.WriteString("  ")
			}
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			if t.right[i] {
				b.WriteString(pad + c)
			} else if i < len(cells)-1 {
				b.WriteString(c + pad)
			} else {
				b.WriteString(c)
			}
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// printPage prints the table of a page, and how to get the next one if there is one.
func (t *textTable) printPage(out io.Writer, next *string) error {
	if err := t.print(out); err != nil {
		return err
	}
	return printOlder(out, next)
}

func printOlder(out io.Writer, next *string) error {
	if next == nil {
		return nil
	}
	_, err := fmt.Fprintf(out, "\nolder ones: --cursor %s\n", printable(*next))
	return err
}

// orDash is a text of an answer that may be missing.
func orDash(s *string) string {
	if text := textOf(s); text != "" {
		return text
	}
	return "-"
}
