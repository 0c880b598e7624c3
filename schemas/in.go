package schemas

import (
	"fmt"
	"strconv"
	"strings"
)

// What a publisher sends to mozaiks.v1.cmd.<app>.<kind> crosses into grout's account as
// mozaiks.v1.from.<publisher>.<app>.<kind>, and MOZAIKS_IN stores it as
// mozaiks.v1.in.<publisher>.<partition>.<app>.<kind>. The publisher is put there by the
// server, for the account of the connection, so nobody can speak as another one. The
// server leaves a subject as it came when a token of it is * or >, which it takes from
// whoever publishes there: such a message belongs to partition 0 and is no command.
const (
	subjectCommand   = "mozaiks.v1.cmd."
	SubjectFrom      = "mozaiks.v1.from." // begins what the stream MOZAIKS_IN takes
	subjectIn        = "mozaiks.v1.in."
	SubjectsCommands = subjectCommand + ">"
	// SubjectsFrom are what the stream MOZAIKS_IN takes.
	SubjectsFrom = SubjectFrom + "*.*.>"
)

// PublisherPlatform is the publisher that is the account platform; others are named by
// the operator (contract §8).
const PublisherPlatform = "platform"

// CommandSubject is where others publish a command of a kind (contract §8).
func CommandSubject(app, kind string) string { return subjectCommand + EscapeToken(app) + "." + kind }

// FromPrefix is where the commands of a publisher arrive.
func FromPrefix(publisher string) string { return SubjectFrom + publisher + "." }

// InSubjects are what MOZAIKS_IN holds for a partition, of all publishers.
func InSubjects(partition int) []string {
	own := subjectIn + "*." + strconv.Itoa(partition) + ".>"
	if partition == 0 {
		return []string{own, SubjectsFrom}
	}
	return []string{own}
}

// InTransform is the subject transform of MOZAIKS_IN: the partition comes between
// publisher and app, computed as PartitionOf does.
func InTransform(partitions int) (source, destination string) {
	return SubjectsFrom, fmt.Sprintf("%s{{wildcard(1)}}.{{partition(%d,2)}}.{{wildcard(2)}}.>", subjectIn, max(partitions, 1))
}

// InSubject is the subject of a message of MOZAIKS_IN.
type InSubject struct {
	Publisher string // the account that it came from: PublisherPlatform or one that the operator has named
	Partition int
	AppToken  string // as it was published; see UnescapeToken
	Kind      string // of one token or more
}

// ParseInSubject reads the subject of a message of MOZAIKS_IN. One that the server has
// left as it came is an error.
func ParseInSubject(subject string) (InSubject, error) {
	rest, ok := strings.CutPrefix(subject, subjectIn)
	parts := strings.SplitN(rest, ".", 4)
	if !ok || len(parts) < 4 || parts[0] == "" || parts[2] == "" || parts[3] == "" {
		return InSubject{}, fmt.Errorf("%q is no subject of %s", subject, StreamIn)
	}
	partition, err := strconv.Atoi(parts[1])
	if err != nil || partition < 0 {
		return InSubject{}, fmt.Errorf("%q is no subject of %s: %q is no partition", subject, StreamIn, parts[1])
	}
	return InSubject{Publisher: parts[0], Partition: partition, AppToken: parts[2], Kind: parts[3]}, nil
}
