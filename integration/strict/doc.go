// Package strict lets many callers race for the last tokens of budgets and judges by
// what they were answered whether the server was strict: by conservation (Judge), and
// by searching an order in which one caller after the other would have been answered
// the same (Linear). It imports nothing of grout and speaks HTTP only. Its invariant: a
// server is accused only of what no order of its work explains; what got no answer may
// have happened at any time later, or never.
package strict
