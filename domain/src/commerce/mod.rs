//! Customers and what they buy.

mod customer;
mod order;

pub use customer::{Customer, CustomerCommand, CustomerError, CustomerEvent, CustomerStatus, NewCustomer};
pub use order::{
    MAX_LINES, MAX_QUANTITY, NewLine, Order, OrderCommand, OrderError, OrderEvent, OrderLine, OrderStatus, Place, Price,
};
