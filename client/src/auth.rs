//! Requests about users, roles and permissions.

use baton_proto::authpb;
use baton_proto::etcdserverpb as pb;
use bytes::Bytes;
use pb::auth_client::AuthClient;

use crate::core::ask;
use crate::rules::Rpc;
use crate::{Client, Error};

impl Client {
    /// From now on everybody has to say who they are. Needs a user `root` with the role `root`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn auth_enable(&self) -> Result<pb::AuthEnableResponse, Error> {
        let sending = self.sending(Rpc::AuthChange);
        ask!(
            self,
            sending,
            AuthClient.auth_enable(pb::AuthEnableRequest {})
        )
    }

    /// From now on everybody may do everything.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn auth_disable(&self) -> Result<pb::AuthDisableResponse, Error> {
        let sending = self.sending(Rpc::AuthChange);
        ask!(
            self,
            sending,
            AuthClient.auth_disable(pb::AuthDisableRequest {})
        )
    }

    /// Whether it is enabled, and the revision of users and roles.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn auth_status(&self) -> Result<pb::AuthStatusResponse, Error> {
        let sending = self.sending(Rpc::AuthRead);
        ask!(
            self,
            sending,
            AuthClient.auth_status(pb::AuthStatusRequest {})
        )
    }

    /// A token for this user. A client with credentials does this by itself.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn authenticate(
        &self,
        name: impl Into<String>,
        password: impl Into<String>,
    ) -> Result<pb::AuthenticateResponse, Error> {
        let request = pb::AuthenticateRequest {
            name: name.into(),
            password: password.into(),
        };
        ask!(
            self,
            self.sending(Rpc::Authenticate),
            AuthClient.authenticate(request)
        )
    }

    /// Adds a user. Without a password only a client certificate can name it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn user_add(
        &self,
        name: impl Into<String>,
        password: Option<String>,
    ) -> Result<pb::AuthUserAddResponse, Error> {
        let no_password = password.is_none();
        let request = pb::AuthUserAddRequest {
            name: name.into(),
            password: password.unwrap_or_default(),
            options: Some(authpb::UserAddOptions { no_password }),
            hashed_password: String::new(),
        };
        ask!(
            self,
            self.sending(Rpc::AuthChange),
            AuthClient.user_add(request)
        )
    }

    /// The roles of a user.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn user_get(
        &self,
        name: impl Into<String>,
    ) -> Result<pb::AuthUserGetResponse, Error> {
        let request = pb::AuthUserGetRequest { name: name.into() };
        ask!(
            self,
            self.sending(Rpc::AuthRead),
            AuthClient.user_get(request)
        )
    }

    /// All users.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn user_list(&self) -> Result<pb::AuthUserListResponse, Error> {
        let sending = self.sending(Rpc::AuthRead);
        ask!(
            self,
            sending,
            AuthClient.user_list(pb::AuthUserListRequest {})
        )
    }

    /// Removes a user.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn user_delete(
        &self,
        name: impl Into<String>,
    ) -> Result<pb::AuthUserDeleteResponse, Error> {
        let request = pb::AuthUserDeleteRequest { name: name.into() };
        ask!(
            self,
            self.sending(Rpc::AuthChange),
            AuthClient.user_delete(request)
        )
    }

    /// Changes a user's password.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn user_change_password(
        &self,
        name: impl Into<String>,
        password: impl Into<String>,
    ) -> Result<pb::AuthUserChangePasswordResponse, Error> {
        let request = pb::AuthUserChangePasswordRequest {
            name: name.into(),
            password: password.into(),
            hashed_password: String::new(),
        };
        ask!(
            self,
            self.sending(Rpc::AuthChange),
            AuthClient.user_change_password(request)
        )
    }

    /// Gives a user a role.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn user_grant_role(
        &self,
        user: impl Into<String>,
        role: impl Into<String>,
    ) -> Result<pb::AuthUserGrantRoleResponse, Error> {
        let request = pb::AuthUserGrantRoleRequest {
            user: user.into(),
            role: role.into(),
        };
        ask!(
            self,
            self.sending(Rpc::AuthChange),
            AuthClient.user_grant_role(request)
        )
    }

    /// Takes a role from a user.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn user_revoke_role(
        &self,
        user: impl Into<String>,
        role: impl Into<String>,
    ) -> Result<pb::AuthUserRevokeRoleResponse, Error> {
        let request = pb::AuthUserRevokeRoleRequest {
            name: user.into(),
            role: role.into(),
        };
        ask!(
            self,
            self.sending(Rpc::AuthChange),
            AuthClient.user_revoke_role(request)
        )
    }

    /// Adds a role, without permissions.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn role_add(
        &self,
        name: impl Into<String>,
    ) -> Result<pb::AuthRoleAddResponse, Error> {
        let request = pb::AuthRoleAddRequest { name: name.into() };
        ask!(
            self,
            self.sending(Rpc::AuthChange),
            AuthClient.role_add(request)
        )
    }

    /// The permissions of a role. Keys are as the server has them, with their namespace.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn role_get(
        &self,
        role: impl Into<String>,
    ) -> Result<pb::AuthRoleGetResponse, Error> {
        let request = pb::AuthRoleGetRequest { role: role.into() };
        ask!(
            self,
            self.sending(Rpc::AuthRead),
            AuthClient.role_get(request)
        )
    }

    /// All roles.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn role_list(&self) -> Result<pb::AuthRoleListResponse, Error> {
        let sending = self.sending(Rpc::AuthRead);
        ask!(
            self,
            sending,
            AuthClient.role_list(pb::AuthRoleListRequest {})
        )
    }

    /// Removes a role.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn role_delete(
        &self,
        role: impl Into<String>,
    ) -> Result<pb::AuthRoleDeleteResponse, Error> {
        let request = pb::AuthRoleDeleteRequest { role: role.into() };
        ask!(
            self,
            self.sending(Rpc::AuthChange),
            AuthClient.role_delete(request)
        )
    }

    /// Lets a role read or write a range of keys, written as the server has them, with their namespace.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn role_grant_permission(
        &self,
        role: impl Into<String>,
        permission: authpb::Permission,
    ) -> Result<pb::AuthRoleGrantPermissionResponse, Error> {
        let request = pb::AuthRoleGrantPermissionRequest {
            name: role.into(),
            perm: Some(permission),
        };
        ask!(
            self,
            self.sending(Rpc::AuthChange),
            AuthClient.role_grant_permission(request)
        )
    }

    /// Takes a permission from a role, by the very range it was granted for.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn role_revoke_permission(
        &self,
        role: impl Into<String>,
        key: impl Into<Bytes>,
        range_end: impl Into<Bytes>,
    ) -> Result<pb::AuthRoleRevokePermissionResponse, Error> {
        let request = pb::AuthRoleRevokePermissionRequest {
            role: role.into(),
            key: key.into(),
            range_end: range_end.into(),
        };
        ask!(
            self,
            self.sending(Rpc::AuthChange),
            AuthClient.role_revoke_permission(request)
        )
    }
}
