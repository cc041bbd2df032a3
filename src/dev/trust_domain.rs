//! A trust domain that signs real JWT-SVIDs.
