package live

import (
	"fmt"

	"grout/schemas"
)

// FrameText is what a client sees of a frame, but for its place in the stream.
func FrameText(f *Frame) string {
	return fmt.Sprint(f.Type, " ", f.AppID, " ", f.ChatID, " ", f.RunID, " ", f.Sequence, " ", f.FactSeq, ".", f.Sub, " ", f.Timestamp, " ", string(f.Data))
}

// FrameTexts are those of a message.
func FrameTexts(m *schemas.StreamMessage) (list []string) {
	i, _ := newItem(m)
	f, err := i.fact()
	if err != nil {
		panic(err)
	}
	frames, _ := i.frames(f, 0, nil, 1<<20)
	for n := range frames {
		list = append(list, FrameText(&frames[n]))
	}
	return list
}
