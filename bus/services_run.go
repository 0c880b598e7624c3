package bus

import (
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// RunService connects to a server as a user of the account of plugins and runs a NATS
// service there, as a plugin of kind nats is: for measurements and tests. Its handler may
// be called from several goroutines.
func RunService(url, password, name string, handler func(data []byte) ([]byte, error)) (stop func() error, err error) {
	nc, err := nats.Connect(url, nats.UserInfo(userPlugin, password), nats.Name("service "+name))
	if err != nil {
		return nil, fmt.Errorf("connect the service %s: %w", name, err)
	}
	answer := func(r micro.Request) {
		result, err := handler(r.Data())
		if err != nil {
			_ = r.Error("500", err.Error(), nil)
			return
		}
		_ = r.Respond(result)
	}
	service, err := micro.AddService(nc, micro.Config{
		Name: name, Version: "1.0.0",
		Endpoint: &micro.EndpointConfig{Subject: name + ".execute", Handler: micro.HandlerFunc(answer)},
	})
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("run the service %s: %w", name, err)
	}
	return func() error {
		err := service.Stop()
		if errors.Is(err, nats.ErrConnectionClosed) { // the server went first
			err = nil
		}
		nc.Close()
		return err
	}, nil
}
