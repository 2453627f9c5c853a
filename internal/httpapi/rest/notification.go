package rest

import (
	"net/http"
	"strings"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/notify"
)

func (s *service) notificationRoutes() []httpapi.Route {
	const tag, all, one = "notifications", "/api/v1/notifications", "/api/v1/notifications/{notificationId}"
	update := httpapi.Route{
		Method: http.MethodPut, Path: one, Name: "updateNotification", Tag: tag, Scope: access.Admin, Summary: "Replace a notification; its channel and its secret stay",
		Body: api.NotificationRequest{}, Reply: api.Notification{}, Handle: s.updateNotification,
	}
	remove := httpapi.Route{
		Method: http.MethodDelete, Path: one, Name: "deleteNotification", Tag: tag, Scope: access.Admin, Summary: "Delete a notification",
		Status: http.StatusNoContent, Handle: s.deleteNotification,
	}
	return []httpapi.Route{
		get(all, "listNotifications", tag, "List who is told of what", access.OrchRead, api.NotificationList{}, s.listNotifications),
		post(all, "createNotification", tag, "Tell a webhook, a chat or people by mail; the secret of a webhook is in this answer and nowhere else", access.Admin, http.StatusCreated,
			api.NotificationRequest{}, api.NewNotification{}, s.createNotification),
		get(one, "getNotification", tag, "Show a notification", access.OrchRead, api.Notification{}, s.getNotification),
		update, remove,
		post(one+"/test", "testNotification", tag, "Send a message to try a notification", access.OrchOperate, http.StatusAccepted, nil, api.Delivery{}, s.testNotification),
		get(one+"/deliveries", "listDeliveries", tag, "List what was sent, and what became of it", access.OrchRead, api.DeliveryList{}, s.listDeliveries, httpapi.PageParams()...),
		post(one+"/deliveries/{deliveryId}/redeliver", "redeliver", tag, "Send the same message again", access.OrchOperate, http.StatusAccepted, nil, api.Delivery{}, s.redeliver),
	}
}

func (s *service) listNotifications(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	rules, err := s.Notify.Rules(r.Context(), c.Tenant)
	if err != nil {
		return err
	}
	var out api.NotificationList
	if out.Items, err = recastAll[api.Notification](rules); err != nil {
		return err
	}
	return httpapi.ReplyTagged(w, r, out)
}

func readRule(r *http.Request) (notify.Rule, error) {
	var q api.NotificationRequest
	if err := httpapi.Read(r, &q); err != nil {
		return notify.Rule{}, err
	}
	rule, err := recast[notify.Rule](q)
	if rule.Packs == nil {
		rule.Packs = []string{}
	}
	return rule, err
}

func (s *service) createNotification(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	rule, err := readRule(r)
	if err != nil {
		return err
	}
	made, secret, err := s.Notify.Create(r.Context(), c.Tenant, rule)
	if err != nil {
		return err
	}
	out := api.NewNotification{Secret: secret}
	if out.Notification, err = recast[api.Notification](made); err != nil {
		return err
	}
	w.Header().Set("Location", "/api/v1/notifications/"+made.ID)
	return httpapi.Reply(w, http.StatusCreated, out)
}

func (s *service) getNotification(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	rule, err := s.Notify.Rule(r.Context(), c.Tenant, r.PathValue("notificationId"))
	if err != nil {
		return err
	}
	out, err := recast[api.Notification](rule)
	if err != nil {
		return err
	}
	return httpapi.ReplyTagged(w, r, out)
}

func (s *service) updateNotification(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	id := r.PathValue("notificationId")
	if _, err := s.Notify.Rule(r.Context(), c.Tenant, id); err != nil { // before what the body says
		return err
	}
	rule, err := readRule(r)
	if err != nil {
		return err
	}
	if rule, err = s.Notify.Update(r.Context(), c.Tenant, id, rule); err != nil {
		return err
	}
	out, err := recast[api.Notification](rule)
	if err != nil {
		return err
	}
	return httpapi.Reply(w, http.StatusOK, out)
}

func (s *service) deleteNotification(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	if err := s.Notify.Delete(r.Context(), c.Tenant, r.PathValue("notificationId")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *service) testNotification(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	d, err := s.Notify.Test(r.Context(), c.Tenant, r.PathValue("notificationId"))
	if err != nil {
		return err
	}
	return replyDelivery(w, &d)
}

func (s *service) redeliver(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	d, err := s.Notify.Redeliver(r.Context(), c.Tenant, r.PathValue("notificationId"), r.PathValue("deliveryId"))
	if err != nil {
		return err
	}
	return replyDelivery(w, &d)
}

func replyDelivery(w http.ResponseWriter, d *notify.Delivery) error {
	out, err := toDelivery(d)
	if err != nil {
		return err
	}
	return httpapi.Reply(w, http.StatusAccepted, out)
}

// toDelivery leaves the rule out of the id: it stands in the path.
func toDelivery(d *notify.Delivery) (api.Delivery, error) {
	out, err := recast[api.Delivery](d)
	_, out.ID, _ = strings.Cut(d.ID, "/")
	return out, err
}

func (s *service) listDeliveries(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	page, err := httpapi.ReadPage(r, "deliveries")
	if err != nil {
		return err
	}
	found, err := s.Notify.Deliveries(r.Context(), c.Tenant, r.PathValue("notificationId"), page.After, page.Limit+1)
	if err != nil {
		return err
	}
	out := api.DeliveryList{Items: []api.Delivery{}}
	for i := range found {
		if i == page.Limit {
			out.NextPageToken = page.Next(out.Items[i-1].ID)
			break
		}
		d, err := toDelivery(&found[i])
		if err != nil {
			return err
		}
		out.Items = append(out.Items, d)
	}
	return httpapi.ReplyTagged(w, r, out)
}
