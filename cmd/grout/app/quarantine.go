package app

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"grout/schemas"
	"grout/store"
)

// quarantine keeps a partition whose file is damaged apart: nothing is read from the
// file or written to it, and no command for its apps is taken, until grout repair has
// rebuilt it. The other partitions work. It reports whether err was such damage.
func (n *node) quarantine(number int, err error) bool {
	var damage *store.DamageError
	if !errors.As(err, &damage) {
		return false
	}
	if n.quarantined == nil {
		n.quarantined = map[int]error{}
	}
	n.quarantined[number] = damage
	n.logger.Error("A PARTITION IS IN QUARANTINE: its apps are answered 503 until the server is stopped and grout repair has been run",
		"partition", number, "error_code", schemas.CodeStoreDamaged, "file", damage.Checkup.Path, "places", damage.Checkup.Damaged, "error", damage)
	return true
}

// partition gives a partition that works.
func (n *node) partition(number int) (*partition, error) {
	if n.quarantined[number] != nil {
		return nil, schemas.Errorf(schemas.CodeStoreDamaged,
			"Partition %d is in quarantine: its store is damaged and is neither read nor written until grout repair has rebuilt it", number)
	}
	if !n.owner.holds() {
		return nil, errNotWorking
	}
	at, found := slices.BinarySearchFunc(n.partitions, number, func(p *partition, number int) int { return p.number - number })
	if !found {
		return nil, errNotWorking
	}
	return n.partitions[at], nil
}

// damage tells of the partitions in quarantine; empty when there is none.
func (n *node) damage() string {
	numbers := slices.Sorted(maps.Keys(n.quarantined))
	if len(numbers) == 0 {
		return ""
	}
	more := ""
	if len(numbers) > 1 {
		more = fmt.Sprintf(" (and %d more)", len(numbers)-1)
	}
	return fmt.Sprintf("partition %d is in quarantine%s: %s", numbers[0], more, n.quarantined[numbers[0]])
}
