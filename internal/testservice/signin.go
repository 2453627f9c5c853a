package testservice

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"

	"golang.org/x/oauth2"
)

// Tokens logs a user in with the authorization code flow and PKCE, as the client with the given id, and returns his ID token and
// his access token for a resource, "" for an opaque one.
func (p *Provider) Tokens(ctx context.Context, user, client, resource string) (id, access string, err error) {
	var lc net.ListenConfig
	back, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	codes := make(chan string, 1)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case codes <- r.URL.Query().Get("code"):
		default:
		}
	})}
	go func() { _ = server.Serve(back) }() // until it is closed
	defer server.Close()
	config := oauth2.Config{
		ClientID: client, RedirectURL: "http://" + back.Addr().String() + "/callback", Scopes: []string{"openid", "email", "profile", "groups"},
		Endpoint: oauth2.Endpoint{AuthURL: p.Issuer + "/auth", TokenURL: p.Issuer + "/token", AuthStyle: oauth2.AuthStyleInParams},
	}
	verifier := oauth2.GenerateVerifier()
	options := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(verifier)}
	if resource != "" {
		options = append(options, oauth2.SetAuthURLParam("resource", resource))
	}
	if _, err := NewBrowser(user).Visit(config.AuthCodeURL(rand.Text(), options...)); err != nil {
		return "", "", err
	}
	select {
	case code := <-codes:
		token, err := config.Exchange(ctx, code, oauth2.VerifierOption(verifier))
		if err != nil {
			return "", "", err
		}
		id, _ = token.Extra("id_token").(string)
		return id, token.AccessToken, nil
	default:
		return "", "", fmt.Errorf("the login of %s did not come back", user)
	}
}
