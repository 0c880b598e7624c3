package bus

import (
	"fmt"
	"testing"

	"grout/schemas"
)

// BenchmarkDecodeGroup reads the CloudEvent of a message and the frames of its commands.
func BenchmarkDecodeGroup(b *testing.B) {
	for _, commands := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("commands=%d", commands), func(b *testing.B) {
			m := groupMessage()
			frames := make([]schemas.CommandFrame, commands)
			for i := range frames {
				frames[i] = command(fmt.Sprint("c-", i), "payload")
			}
			m.Data = schemas.AppendGroup(nil, frames)
			b.ReportAllocs()
			for b.Loop() {
				g, err := DecodeGroupMessage(m)
				if err != nil || len(g.Commands) != commands {
					b.Fatal(len(g.Commands), err)
				}
			}
		})
	}
}
